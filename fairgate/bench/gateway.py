"""`fairgate bench gateway`: what the gateway costs with everything on, beside others that relay to an engine.

All servers run at once, on one core; engine and client have another; a server is measured while it alone has a load.
The figure is its processor time per request, and per event of a stream: time by the clock says as much about the
neighbours. Windows of all servers come in turns, and each round gives a ratio to nginx, which drifts least.

Four loads, of requests that are answered one after the other on each connection:

- *short*: 64 connections, answers of 16 tokens that are not streamed.
- *streams*: 200 streams of 20 ms a token, which come together, as the steps of an engine write them. The window opens
  when all streams have begun and closes before one ends, so it holds events and nothing else.
- *bulk*: 64 connections, streams of 200 tokens that the engine writes at once.
- *alone*: one connection, as *short*, with server, engine and client on one core: the median of the time an answer
  takes, less that of the engine itself in the same round.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import NamedTuple

from fairgate.bench.client import post
from fairgate.bench.gateway_engine import MOST_TOKENS, events_of, write_answers
from fairgate.bench.gateway_native import CLIENT, ENGINE, Client, Counted, Talker, compiled, find_compiler, pinned
from fairgate.bench.gateway_servers import DIRECT, NGINX, RELAY, Server, Setting, key_of, repin, running
from fairgate.errors import ProcessError
from fairgate.topology.cpu_time import CpuTime, children_of
from loadgen.client.wire import CHAT
from loadgen.progress import Progress, quiet

SETTLE_S = 0.5


@dataclass(frozen=True)
class Load:
    """`tokens` of each answer; `stream` with `gap_ms` from token to token."""

    name: str
    connections: int
    tokens: int
    stream: bool = False
    gap_ms: int = 0

    @property
    def events(self) -> int:
        """Of each answer."""
        return events_of(self.tokens) if self.stream else 0

    @property
    def begun(self) -> int:
        """Events, or answers, that have come when every connection is served, as a rule."""
        return self.connections * (2 if self.stream else 1)

    def requests(self, tenants: int) -> list[bytes]:
        messages = [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": "How are you today?"}]
        body = {"model": "m", "messages": messages, "max_tokens": self.tokens, "temperature": 0.7, "seed": self.gap_ms}
        asked = body | ({"stream": True} if self.stream else {})
        return [post(CHAT, key_of(tenant), asked) for tenant in range(tenants)]


SHORT = Load("short", 64, 16)
STREAMS = Load("streams", 200, MOST_TOKENS, stream=True, gap_ms=20)
BULK = Load("bulk", 64, 200, stream=True)
ALONE = Load("alone", 1, 16)
LOADS = (SHORT, STREAMS, BULK, ALONE)


@dataclass(frozen=True)
class GatewayPlan:
    """`rounds` of windows of `seconds`, and one round before them for warmth. `servers` beside each other. `tenants` of
    the gateway; with fewer `slots` than connections requests queue. `compiler` of C, or None: all in Python."""

    servers: Sequence[Server]
    rounds: int = 5
    seconds: float = 1.5
    tenants: int = 10
    slots: int = 1000
    compiler: str | None = field(default_factory=find_compiler)


class Window(NamedTuple):
    """What came, what of its processor time the server used for it, and how many cores others kept busy."""

    counted: Counted
    cpu_s: float
    others: float

    @property
    def request_us(self) -> float:
        return 1e6 * self.cpu_s / self.counted.answers

    @property
    def event_us(self) -> float:
        return 1e6 * self.cpu_s / self.counted.events


@dataclass(frozen=True)
class GatewayFound:
    """Windows by load and server, one a round. `cores`: the server's, and that of engine and client."""

    plan: GatewayPlan
    cores: tuple[int, int]
    windows: Mapping[str, Mapping[str, Sequence[Window]]]

    @property
    def yardstick(self) -> str:
        """What others are told as multiples of: nginx, or the bare relay."""
        return NGINX if NGINX in self.windows[SHORT.name] else RELAY

    def cost_us(self, load: Load, server: str) -> list[float]:
        """Microseconds of the server's processor time in each round: per event of a stream, else per request."""
        return [found.event_us if load.stream else found.request_us for found in self.windows[load.name][server]]

    def ratio(self, load: Load, server: str) -> float:
        """To the yardstick: the median over rounds."""
        pairs = zip(self.cost_us(load, server), self.cost_us(load, self.yardstick), strict=True)
        return median(own / least for own, least in pairs)

    def added_us(self, server: str) -> float:
        """What an answer takes longer through it than from the engine, alone on one core."""
        alone = self.windows[ALONE.name]
        return median(
            through.counted.middle_us - direct.counted.middle_us
            for through, direct in zip(alone[server], alone[DIRECT], strict=True)
        )

    def others(self) -> float:
        """Cores that were busy with other programs, in the middle of all windows."""
        return median(one.others for load in self.windows.values() for found in load.values() for one in found)


def bench_gateway(plan: GatewayPlan, folder: Path, progress: Progress = quiet) -> GatewayFound:
    """Raises ProcessError when a server does not come up, or an answer is not what it should be."""
    with started(plan, folder, progress) as bench:
        windows: dict[str, dict[str, list[Window]]] = {
            load.name: {name: [] for name in bench.names(load)} for load in LOADS
        }
        for number in range(plan.rounds + 1):
            for place, load in enumerate(LOADS):
                progress(f"{load.name}, round {number} of {plan.rounds}", (number + place / 4) / (plan.rounds + 1))
                for name in bench.names(load)[:: 1 if number % 2 else -1]:
                    windows[load.name][name].append(bench.window(load, name))
    kept = {load: {name: found[1:] for name, found in by_name.items()} for load, by_name in windows.items()}
    return GatewayFound(plan, bench.cores, kept)


def two_cores() -> tuple[int, int]:
    """One for the servers and one for engine and client, of those this process may use; where there is one it is both.
    The lowest is left to others: interrupts go there. Raises ProcessError where processes cannot be pinned."""
    if not hasattr(os, "sched_getaffinity"):
        raise ProcessError("processes cannot be pinned to cores here; this benchmark needs Linux")
    free = sorted(os.sched_getaffinity(0))
    return free[-1], free[-2] if len(free) > 1 else free[-1]


@contextmanager
def started(plan: GatewayPlan, folder: Path, progress: Progress = quiet) -> Iterator[Bench]:
    """All servers run. Raises ProcessError when one does not come up."""
    own, beside = cores = two_cores()
    commands = compiled(folder, plan.compiler)
    with ExitStack() as stack:
        with pinned({beside}):
            engine = Talker([*commands[ENGINE], str(write_answers(folder / "answers"))], folder / "engine.log")
        stack.callback(engine.stop)
        (port,) = engine.hear()
        places = {DIRECT: (engine.pid, port)}
        for server in plan.servers:
            progress(f"starting {server.name}", 0.0)
            with pinned({own}):
                setting = Setting(port, 0, folder, plan.tenants, plan.slots)
                places[server.name] = stack.enter_context(running(server, setting))
        yield Bench(plan, folder, cores, commands[CLIENT], engine.pid, places)


@dataclass(frozen=True)
class Bench:
    """Servers that run. `places`: process id and port of each."""

    plan: GatewayPlan
    folder: Path
    cores: tuple[int, int]
    client: Sequence[str]
    engine: int
    places: Mapping[str, tuple[int, int]]

    def names(self, load: Load) -> list[str]:
        """Who has this load: the engine itself only where it is compared with."""
        return [name for name in self.places if name != DIRECT or load is ALONE]

    def window(self, load: Load, name: str) -> Window:
        with self.loaded(load, name) as client:
            pid = self.places[name][0]
            server = [pid, *children_of(pid)]
            cpu = CpuTime(server=server, beside=[client.pid, *({self.engine} - {pid})])
            counted = client.count(self.plan.seconds)
            spent = cpu.spent()
        return Window(counted, spent.cpu_s["server"], spent.others)

    @contextmanager
    def loaded(self, load: Load, name: str) -> Iterator[Client]:
        """The server has the load, on all connections."""
        own, beside = self.cores
        core = {own if load is ALONE else beside}
        repin(self.engine, core)
        requests = load.requests(self.plan.tenants)
        with pinned(core):
            client = Client(self.client, self.places[name][1], load.connections, load.events, requests, self.folder)
        with closing(client):
            client.count(SETTLE_S, load.begun)
            yield client
