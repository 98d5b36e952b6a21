"""`fairgate chaos`: load over several gateways and two engines while replicas, the store and engines die and come back.

Each kind of fault happens once a minute, in an order and at moments that the seed decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from threading import Thread
from typing import Any

from rich.console import Console

from fairgate.promises import Promise, tell
from fairgate.topology.cpu_time import CpuMeter
from fairgate.topology.deployment import Deployment
from fairgate.topology.plan import MockEngine, Plan, mock_plan
from fairgate.trials.engines import record_of, target_of
from fairgate.trials.faults import FLUSH_S, LEASE_S, LOOK_S, SETTLE_S, Fault, Faults, PlannedFault
from fairgate.trials.inspection import own_book
from fairgate.trials.verdicts import Evidence, judge_charges, judge_requests, wait_for_rest
from loadgen.client.open_loop import run_load
from loadgen.client.record import LoadRecord
from loadgen.progress import Progress
from loadgen.workloads.arrivals import steady_load
from loadgen.workloads.prompts import WordPrompts
from loadgen.workloads.workload import Request

WEIGHTS = {"a": 4.0, "b": 2.0, "c": 1.0}
OFFERS = {"a": 0.3, "b": 0.4, "c": 0.35}  # of all that the engines can serve: a little more than everything
ENGINES, ENGINE = 2, MockEngine(slots=8)
INPUT_TOKENS, OUTPUT_TOKENS = 16, 32
HEARTBEAT_S, TIMEOUT_S = 0.2, 0.5
QUIET_S = 2.0  # before the first fault
DRAIN_S = 60.0


@dataclass(frozen=True)
class ChaosPlan:
    """`call_s` seconds are what one call to the store may take on this machine, where the cost of a death is judged."""

    seed: int
    seconds: float = 60.0
    replicas: int = 4
    call_s: float = 0.1

    def deployment(self, folder: Path) -> Plan:
        times = {"lease_s": LEASE_S, "heartbeat_s": HEARTBEAT_S, "timeout_s": TIMEOUT_S, "flush_s": FLUSH_S}
        pool = {"predict": "none"}
        return mock_plan(folder, WEIGHTS, self.replicas, engines=ENGINES, engine=ENGINE, pool=pool, store=times)

    def schedule(self) -> list[PlannedFault]:
        """The same for the same seed."""
        chance = Random(self.seed)
        faults = [
            fault for _ in range(max(1, round(self.seconds / 60))) for fault in chance.sample(list(Fault), len(Fault))
        ]
        every = (self.seconds - QUIET_S) / len(faults)
        moments = [QUIET_S + (number + chance.uniform(0, 0.5)) * every for number in range(len(faults))]
        return [PlannedFault(at_s, fault, chance.randrange(1000)) for at_s, fault in zip(moments, faults, strict=True)]

    def load(self) -> tuple[Request, ...]:
        most = ENGINES * ENGINE.slots / (OUTPUT_TOKENS * ENGINE.step_s)  # requests a second
        rates = {tenant: offer * most for tenant, offer in OFFERS.items()}
        return steady_load(rates, self.seconds, INPUT_TOKENS, OUTPUT_TOKENS)

    @property
    def forgiven_s(self) -> float:
        """For so long may output of a dead replica have gone unreported."""
        return FLUSH_S + self.call_s


class Background:
    """A coroutine that runs in a thread of its own, so that faults may block."""

    def __init__(self, work: Coroutine[Any, Any, LoadRecord]) -> None:
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(work)
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def result(self) -> LoadRecord:
        """Waits for the end. Raises what the coroutine raised."""
        while self._thread.is_alive():
            self._thread.join(LOOK_S)
        return self._task.result()

    def cancel(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._task.cancel)
            self._thread.join()

    def check(self) -> None:
        """Raises what the coroutine raised, when it has."""
        if self._task.done():
            self._task.result()

    def _run(self) -> None:
        with suppress(BaseException):
            self._loop.run_until_complete(self._task)
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


def run_chaos(plan: ChaosPlan, folder: Path, console: Console, progress: Progress) -> bool:
    """Returns whether all promises were kept. Raises ProcessError when a program does not come (back) up."""

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    say(f"seed {plan.seed}: {plan.seconds:g} s of load over {plan.replicas} gateways and {ENGINES} engines")
    cpu = CpuMeter()
    with Deployment(plan.deployment(folder), lambda what: progress(what, 0.0)) as deployment:
        promises = _endure(plan, deployment.start(), say, progress)
    return tell([*promises, Promise(str(cpu))], console)


def _endure(plan: ChaosPlan, deployment: Deployment, say: Callable[[str], None], progress: Progress) -> list[Promise]:
    assert deployment.store is not None
    target = target_of(deployment, dict.fromkeys(WEIGHTS, range(plan.replicas)), DRAIN_S)
    load = Background(run_load(target, plan.load(), prompts=WordPrompts(), progress=progress))
    faults = Faults(deployment, deployment.store, say)
    try:
        faults.run(plan.schedule(), load.check)
        record = load.result()
    finally:
        load.cancel()
    progress("waiting for all to settle", 1.0)
    rest = wait_for_rest(deployment.gateway_urls, deployment.store, SETTLE_S)
    sums = Promise(
        f"counters were lifts plus books at each of {faults.looks} looks{_first(faults.wrong_sums)}",
        not faults.wrong_sums and faults.looks > 0,
    )
    seen = Evidence(record, record_of(deployment.plan), faults.deaths, WEIGHTS)
    books = {url: own_book(url)[1] for url in deployment.gateway_urls}
    charges = judge_charges(seen, books, plan.forgiven_s, ENGINE.step_s)
    return [sums, *judge_requests(seen), *rest, *charges]


def _first(wrong: list[str]) -> str:
    return f": {len(wrong)} were not, like {wrong[0]}" if wrong else ""
