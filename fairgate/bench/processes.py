"""`fairgate bench processes`: what N gateway processes on one port give, beside one, under the same load in turns.

One process keeps its queue itself; N share one over a store, and pay for that with every request. So the gain is less
than N, and where client, engine and gateways compete for the same cores it may be a loss: then the processor time of a
request is what counts, and says how many cores a rate will take where there are more.

    one process at 200 us a request fills its core at 5,000/s; two at 350 us and 50 us of the store need 2 cores for
    5,700/s, and a third of a core for the store
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import NamedTuple
from urllib.parse import urlsplit

from fairgate.bench.client import LoadClient, completion_request
from fairgate.bench.rounds import quieter_half, table
from fairgate.topology.cpu_time import CpuTime, children_of
from fairgate.topology.deployment import START_TIMEOUT_S, Deployment
from fairgate.topology.plan import MockEngine, Plan, mock_plan
from fairgate.topology.processes import DIRECT, wait_until
from fairgate.topology.settings import key_of
from loadgen.progress import Progress, quiet

TENANTS = [f"tenant-{number}" for number in range(10)]
CONNECTIONS = 64
INPUT_TOKENS, OUTPUT_TOKENS = 8, 4
ENGINE = MockEngine(slots=4096, kv_tokens=4_096_000, step_s=0.001)
WARM_UP_S = 0.5


@dataclass(frozen=True)
class ProcessesPlan:
    """`count` processes against one, each for so many `seconds` in every round."""

    count: int = 2
    rounds: int = 10
    seconds: float = 2.0

    def deployment(self, folder: Path, processes: int) -> Plan:
        plan = mock_plan(folder, dict.fromkeys(TENANTS, 1.0), gateways=1, engine=ENGINE, shared=False)
        return replace(plan, processes=processes)


class Turn(NamedTuple):
    """Requests a second; microseconds of processor time per request, of the gateway's processes together and of their
    store; and cores that were busy with anything but the measured."""

    rate: float
    gateway_us: float
    store_us: float
    others: float


@dataclass(frozen=True)
class ProcessesFound:
    """By number of processes: a turn of each round that is kept, the quieter half of them."""

    turns: Mapping[int, Sequence[Turn]]

    def middle(self, processes: int, figure: Callable[[Turn], float]) -> float:
        return median(map(figure, self.turns[processes]))

    def ratio(self, processes: int, figure: Callable[[Turn], float]) -> float:
        """To one process: the median over rounds."""
        pairs = zip(self.turns[processes], self.turns[1], strict=True)
        return median(figure(many) / figure(one) for many, one in pairs)


def bench_processes(plan: ProcessesPlan, folder: Path, progress: Progress = quiet) -> ProcessesFound:
    """Raises ProcessError when a program does not come up, or an answer is not what it should be."""
    counts = (1, plan.count)
    with ExitStack() as stack:
        progress("starting gateways", 0.0)
        tracks = {count: _track(stack, plan.deployment(folder / str(count), count)) for count in counts}
        turns: dict[int, list[Turn]] = {count: [] for count in counts}
        for number in range(plan.rounds):
            for count in counts[:: 1 if number % 2 else -1]:
                progress(f"processes: {count}, round {number + 1} of {plan.rounds}", number / plan.rounds)
                turns[count].append(tracks[count].turn(plan.seconds))
    rounds = quieter_half(zip(*turns.values(), strict=True), lambda found: sum(turn.others for turn in found))
    return ProcessesFound({count: [found[place] for found in rounds] for place, count in enumerate(counts)})


def markdown(found: ProcessesFound) -> str:
    """The figures as a table."""
    rows = []
    for count in found.turns:
        rate, gateway_us, store_us = (found.middle(count, figure) for figure in (_rate, _gateway_us, _store_us))
        ratios = (f"{found.ratio(count, figure):.2f}" for figure in (_rate, _total_us))
        rows.append([str(count), f"{rate:,.0f}", f"{gateway_us:.0f}", f"{store_us:.0f}", *ratios])
    titles = ["processes", "requests/s", "gateway, us a request", "store, us", "requests/s to one", "us to one"]
    where = f"{os.cpu_count()} cores, on which engine and client run too; {CONNECTIONS} connections, closed loop"
    return f"{where}\n\n{table(titles, rows)}"


def _rate(turn: Turn) -> float:
    return turn.rate


def _gateway_us(turn: Turn) -> float:
    return turn.gateway_us


def _store_us(turn: Turn) -> float:
    return turn.store_us


def _total_us(turn: Turn) -> float:
    return turn.gateway_us + turn.store_us


class Track:
    """A gateway that runs, and connections to it."""

    def __init__(self, deployment: Deployment) -> None:
        plan = deployment.plan
        [name], [url] = plan.gateways, deployment.gateway_urls
        if plan.processes > 1:
            wait_until(lambda: _up(url) == plan.processes, f"{plan.processes} processes", START_TIMEOUT_S)
        self._parent, self._engine = deployment.pids[name], deployment.pids[plan.workers[0]]
        requests = [
            completion_request(ENGINE.served_name, key_of(tenant), tenant, INPUT_TOKENS, OUTPUT_TOKENS)
            for tenant in TENANTS
        ]
        self._client = LoadClient([urlsplit(url).port or 0], requests, CONNECTIONS)

    def close(self) -> None:
        self._client.close()

    def turn(self, seconds: float) -> Turn:
        children = children_of(self._parent)
        store = [pid for pid, name in children.items() if name.endswith("-server")]
        gateway = [self._parent, *(pid for pid in children if pid not in store)]
        cpu = CpuTime(gateway=gateway, store=store, engine=[self._engine], client=[os.getpid()])
        answers = self._client.closed_loop(seconds)
        spent = cpu.spent()
        gateway_us, store_us = (1e6 * spent.cpu_s[name] / len(answers) for name in ("gateway", "store"))
        return Turn(len(answers) / spent.wall_s, gateway_us, store_us, spent.others)


def _track(stack: ExitStack, plan: Plan) -> Track:
    deployment = stack.enter_context(Deployment(plan))
    track = stack.enter_context(closing(Track(deployment.start())))
    track.turn(WARM_UP_S)
    return track


def _up(url: str) -> int:
    with DIRECT.open(f"{url}/readyz", timeout=10) as answer:
        return int(json.load(answer)["processes_up"])
