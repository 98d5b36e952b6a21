"""What sharing a queue costs over HTTP: gateways on a store against gateways with a queue of their own, in turns.

The engines have room for all and answer within milliseconds, so gateways and store are what is measured. All processes
run on one machine: where the loop is closed they compete for its cores, and the processor time of a request says more
than the requests a second.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple
from urllib.parse import urlsplit

from fairgate.bench.client import Answer, LoadClient, completion_request
from fairgate.bench.rounds import percentile, quieter_half
from fairgate.topology.cpu_time import CpuTime
from fairgate.topology.deployment import Deployment
from fairgate.topology.plan import MockEngine, Plan, mock_plan
from fairgate.topology.processes import DIRECT
from fairgate.topology.settings import key_of
from fairgate.topology.stores import StoreServer
from loadgen.progress import Progress, quiet

TENANTS = [f"tenant-{number}" for number in range(100)]
INPUT_TOKENS = 8
CONNECTIONS = 32
OPEN_CONNECTIONS = 400  # enough that arrivals find one idle
SENT_BY_CLIENTS = ("fcall", "xread", "exists", "hello", "ping", "function|load", "client|setinfo", "info")
"""Commands that functions of ours never call. GET is sent once a join, but called inside at every call."""
WARM_UP_S = 0.5
OWN, SHARED = "own", "shared"  # modes


class StoreCounts(NamedTuple):
    """Since the server began: commands of clients, commands called inside functions, bytes in and out."""

    commands: int = 0
    inside: int = 0
    bytes: int = 0


class Cpu(NamedTuple):
    """Seconds of processor time."""

    gateways: float
    engines: float
    store: float
    client: float


@dataclass(frozen=True)
class Lap:
    """One load on one deployment, and what it took. `first_ms`: from when a request was due to the first byte of its
    answer; `queued_ms`: of that in the gateway's queue, by its own account, on average; `late_ms`: how much later than
    due the client sent 99 of 100 requests; `others`: cores that were busy with anything but deployment and client."""

    requests: int
    wall_s: float
    cpu: Cpu
    store: StoreCounts
    first_ms: Sequence[float]
    queued_ms: float
    late_ms: float
    others: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.wall_s

    def us(self, seconds: float) -> float:
        """Per request, in microseconds."""
        return 1e6 * seconds / self.requests

    def per_request(self, number: float) -> float:
        return number / self.requests


@dataclass(frozen=True)
class HttpCase:
    """A load that deployments are to carry in turns. `rate` 0: a closed loop over `connections`. `slots` of the engine,
    whose steps take `step_s`; `output_tokens` of each request, one a step. `own`: compare with queues of their own."""

    name: str
    gateways: int = 1
    rate: float = 0.0
    connections: int = CONNECTIONS
    output_tokens: int = 4
    slots: int = 4096
    step_s: float = 0.001
    own: bool = True

    def deployment(self, folder: Path, mode: str) -> Plan:
        engine = MockEngine(self.slots, self.slots * 1000, self.step_s)
        weights = dict.fromkeys(TENANTS, 1.0)
        return mock_plan(folder / mode, weights, self.gateways, engine=engine, shared=mode == SHARED)


@dataclass(frozen=True)
class HttpFound:
    """Laps by mode, `own` (where the case has it) and `shared`, one of each in a round: the quieter half of them, when
    others used the machine least."""

    case: HttpCase
    laps: Mapping[str, Sequence[Lap]]

    def middle(self, mode: str, figure: Callable[[Lap], float]) -> float:
        return median(figure(lap) for lap in self.laps[mode])

    def differences(self, figure: Callable[[Lap], float]) -> list[float]:
        """What sharing adds, in each round."""
        return [figure(shared) - figure(own) for own, shared in self._rounds()]

    def ratio(self, figure: Callable[[Lap], float]) -> float:
        """Shared over own, the median over rounds."""
        return median(figure(shared) / figure(own) for own, shared in self._rounds())

    def _rounds(self) -> Iterator[tuple[Lap, Lap]]:
        return zip(self.laps[OWN], self.laps[SHARED], strict=True)


def measure_http(case: HttpCase, folder: Path, rounds: int, seconds: float, progress: Progress = quiet) -> HttpFound:
    """Raises ProcessError when a program does not come up, or an answer is not what it should be."""
    modes = (OWN, SHARED) if case.own else (SHARED,)
    with ExitStack() as stack:
        progress(f"{case.name}: starting gateways", 0.0)
        tracks: dict[str, Track] = {}
        for mode in modes:
            deployment = stack.enter_context(Deployment(case.deployment(folder, mode)))
            tracks[mode] = stack.enter_context(closing(Track(case, deployment.start())))
            tracks[mode].lap(WARM_UP_S, seed=0)
        laps: dict[str, list[Lap]] = {mode: [] for mode in modes}
        for number in range(rounds):
            for mode in modes[:: 1 if number % 2 else -1]:
                progress(f"{case.name}: {mode}, round {number + 1} of {rounds}", number / rounds)
                laps[mode].append(tracks[mode].lap(seconds, seed=1 + number))
    return HttpFound(case, quieter_rounds(laps))


def quieter_rounds(laps: Mapping[str, Sequence[Lap]]) -> dict[str, list[Lap]]:
    """Half of the rounds, each whole."""
    kept = quieter_half(zip(*laps.values(), strict=True), lambda found: sum(lap.others for lap in found))
    return {mode: [found[place] for found in kept] for place, mode in enumerate(laps)}


class Track:
    """A deployment, and connections to it."""

    def __init__(self, case: HttpCase, deployment: Deployment) -> None:
        self._case = case
        self._deployment = deployment
        model = deployment.plan.engine.served_name
        requests = [
            completion_request(model, key_of(tenant), tenant, INPUT_TOKENS, case.output_tokens) for tenant in TENANTS
        ]
        ports = [urlsplit(url).port or 0 for url in deployment.gateway_urls]
        self._client = LoadClient(ports, requests, OPEN_CONNECTIONS if case.rate else case.connections)

    def close(self) -> None:
        self._client.close()

    def lap(self, seconds: float, seed: int) -> Lap:
        store, queued = self._deployment.store, self._queued()
        counts, cpu = counts_of(store), self._cpu_time()
        answers = self._load(seconds, seed)
        spent, counted = cpu.spent(), counts_of(store)
        seconds_queued, turns = (after - before for after, before in zip(self._queued(), queued, strict=True))
        return Lap(
            len(answers),
            spent.wall_s,
            Cpu(**spent.cpu_s),
            StoreCounts(*(after - before for after, before in zip(counted, counts, strict=True))),
            [1e3 * (answer.first - answer.due) for answer in answers],
            1e3 * seconds_queued / turns,
            1e3 * percentile([answer.sent - answer.due for answer in answers], 0.99),
            spent.others,
        )

    def _load(self, seconds: float, seed: int) -> list[Answer]:
        if self._case.rate:
            return self._client.open_loop(self._case.rate, seconds, seed)
        return self._client.closed_loop(seconds)

    def _queued(self) -> tuple[float, float]:
        """Seconds that requests waited for their turns so far, and how many turns those were."""
        pages = [DIRECT.open(f"{url}/metrics", timeout=10).read().decode() for url in self._deployment.gateway_urls]
        lines = [line for page in pages for line in page.splitlines()]
        sums = (f"fairgate_queue_seconds_{what}" for what in ("sum", "count"))
        waited, turns = (
            sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)) for name in sums
        )
        return waited, turns

    def _cpu_time(self) -> CpuTime:
        plan, pids = self._deployment.plan, self._deployment.pids
        gateways, engines = ([pids[name] for name in names] for names in (plan.gateways, plan.workers))
        store = [pids["store"]] if "store" in pids else []
        return CpuTime(gateways=gateways, engines=engines, store=store, client=[os.getpid()])


def counts_of(store: StoreServer | None) -> StoreCounts:
    if store is None:
        return StoreCounts()
    info = store.command("INFO", "all")
    calls = {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in info.items() if name.startswith("cmdstat_")}
    outside = sum(calls.get(name, 0) for name in SENT_BY_CLIENTS)
    return StoreCounts(
        outside, sum(calls.values()) - outside, info["total_net_input_bytes"] + info["total_net_output_bytes"]
    )
