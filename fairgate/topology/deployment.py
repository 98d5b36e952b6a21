"""A plan that runs: its store, workers, gateways, and what stands around them, as processes on the loopback.

Each can be killed and started again at its address. All of them die with the thread that started them (Linux).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple, Self

from fairgate.topology.front import nginx_conf, prometheus_yml
from fairgate.topology.plan import FRONT, Plan
from fairgate.topology.processes import FAIRGATE, Program, lasting_port, stop_together, tied, write_config
from fairgate.topology.settings import gateway_settings
from fairgate.topology.stores import StoreServer, store_binary

START_TIMEOUT_S = 60.0
NGINX_SINGLE = "daemon off; master_process off; pid nginx.pid;"  # its workers would outlive a master that is killed


class Launch(NamedTuple):
    """How a member is started, and the path at which it says that it is ready."""

    arguments: Sequence[str]
    ready: str
    timeout_s: float = START_TIMEOUT_S
    command: Sequence[str] = FAIRGATE


class Deployment:
    """Use it as a context manager: it ends however it is left, also while it starts.

    `say` is told what goes on. `look` is called while something is waited for, and may raise.
    """

    def __init__(
        self, plan: Plan, say: Callable[[str], None] = lambda what: None, look: Callable[[], None] = lambda: None
    ) -> None:
        self.plan = plan
        self.store: StoreServer | None = None
        self.programs: dict[str, Program] = {}  # of members: all but the store
        members = (*plan.workers, *plan.gateways, *plan.around)
        self._ports = {name: plan.ports.get(name) or lasting_port() for name in members}
        self._waits: dict[str, tuple[str, float]] = {}
        self._say = say
        self._look = look

    def __enter__(self) -> Self:
        self.plan.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *error: object) -> None:
        """Gateways first, so that streams may end; then what stands around them, the workers and the store."""
        with ExitStack() as last:  # in the opposite order, and on when one is interrupted
            if self.store:
                last.callback(self.store.stop)
            for names in (self.plan.workers, self.plan.around, self.plan.gateways):
                last.callback(self._stop, names)

    def start(self) -> Self:
        """Return when everything answers. Raises ProcessError, and what `look` raises."""
        if self.plan.store is not None:
            self._start_store()
        for name in self.plan.workers:
            note = self.plan.engine.note if name == self.plan.workers[0] else ""
            self._tell(f"starting {name}{note}")
            self.start_member(name)
        for name in self.plan.around:
            self._tell(f"starting {'nginx' if name == FRONT else 'Prometheus'}")
            self.launch(name)
        self._start_gateways()
        for name in self.plan.around:
            self.wait_ready(name)
        return self

    def start_member(self, name: str) -> None:
        """One that has not been started, or was killed: it is at its address again. Raises ProcessError."""
        self.launch(name)
        self.wait_ready(name)

    def launch(self, name: str) -> None:
        """Start a member without waiting: see `wait_ready`."""
        launch = self._launch(name)
        log, command = self.plan.log(name), tied(launch.command)
        self._waits[name] = (self.url(name) + launch.ready, launch.timeout_s)
        self.programs[name] = Program(name, *launch.arguments, log=log, command=command)

    def wait_ready(self, name: str) -> None:
        """Return once a member answers that it is ready. Raises ProcessError."""
        self.programs[name].wait_ready(*self._waits[name], self._look)

    def kill(self, name: str) -> None:
        """SIGKILL. `start_member` brings it back, at its address."""
        self.programs[name].kill()

    def reconfigure(self, settings: Mapping[str, Any]) -> None:
        """Gateways end, and begin anew with other settings. The workers stay."""
        self._stop(self.plan.gateways)
        self.plan = replace(self.plan, settings=settings)
        self._start_gateways()

    def url(self, name: str) -> str:
        return f"http://{self._address(name)}"

    @property
    def gateway_urls(self) -> list[str]:
        return [self.url(name) for name in self.plan.gateways]

    @property
    def pids(self) -> dict[str, int]:
        """Of all that was started, by name."""
        store = {"store": self.store.pid} if self.store else {}
        return {**store, **{name: program.process.pid for name, program in self.programs.items()}}

    def _start_store(self) -> None:
        binary = store_binary()
        self._tell(f"starting the store ({binary.name})")
        self.store = StoreServer(binary, self.plan.folder / "store")
        self.store.start()

    def _start_gateways(self) -> None:
        for name in self.plan.gateways:
            self._tell(f"starting {name}")
            self.launch(name)
        for name in self.plan.gateways:
            self.wait_ready(name)

    def _stop(self, names: Iterable[str]) -> None:
        stop_together([self.programs[name] for name in names if name in self.programs])

    def _tell(self, what: str) -> None:
        self._look()
        self._say(what)

    def _address(self, name: str) -> str:
        return f"127.0.0.1:{self._ports[name]}"

    def _launch(self, name: str) -> Launch:
        if name in self.plan.workers:
            return self._worker(name)
        if name in self.plan.gateways:
            return self._gateway(name)
        return self._front(name) if name == FRONT else self._prometheus(name)

    def _worker(self, name: str) -> Launch:
        engine = self.plan.engine
        arguments = engine.arguments(self._ports[name], self.plan.service_log(name))
        return Launch(arguments, "/health", engine.start_s)

    def _gateway(self, name: str) -> Launch:
        workers = [{"url": self.url(worker), **self.plan.room} for worker in self.plan.workers]
        store = {"url": self.store.url, "replica": name, **(self.plan.store or {})} if self.store else None
        settings = gateway_settings(self.plan.settings, self._ports[name], workers, store)
        config = write_config(settings, self.plan.folder / f"{name}.yaml")
        return Launch(["gateway", "--config", str(config), "--processes", str(self.plan.processes)], "/readyz")

    def _front(self, name: str) -> Launch:
        folder, gateways = self.plan.folder, [self._address(gateway) for gateway in self.plan.gateways]
        (folder / "nginx.conf").write_text(nginx_conf(self._address(name), gateways, folder))
        arguments = ["-p", str(folder), "-e", "stderr", "-c", "nginx.conf", "-g", NGINX_SINGLE]
        return Launch(arguments, "/readyz", command=(str(self.plan.nginx),))

    def _prometheus(self, name: str) -> Launch:
        folder, targets = self.plan.folder, {"gateway": self.plan.gateways, "worker": self.plan.workers}
        jobs = {job: [self._address(member) for member in members] for job, members in targets.items()}
        (folder / "prometheus.yml").write_text(prometheus_yml(jobs))
        files = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'prometheus'}"]
        arguments = [*files, f"--web.listen-address={self._address(name)}"]
        return Launch(arguments, "/-/ready", command=(str(self.plan.prometheus),))
