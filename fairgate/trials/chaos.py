"""`fairgate chaos`: load over several gateways and two engines while replicas, the store and engines die and come back.

Each kind of fault happens once a minute, in an order and at moments that the seed decides. A gateway that was killed is
followed a second later by a new one at its address, which the store knows under another name.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from random import Random
from threading import Thread
from typing import Any

import redis
from rich.console import Console

from fairgate.errors import ProcessError
from fairgate.topology.fleet import CpuMeter, Fleet, FleetPlan
from fairgate.topology.stores import StoreServer
from fairgate.trials.inspection import books_of, last_call, name_of, read_store, shares_without_sum, standing_of
from fairgate.trials.promises import Promise, tell
from fairgate.trials.verdicts import Death, judge_chaos
from loadgen.client.live import Progress, run_load
from loadgen.client.record import LoadRecord
from loadgen.judge.measure import steady_load
from loadgen.workloads.prompts import WordPrompts
from loadgen.workloads.traces import Request

WEIGHTS = {"a": 4.0, "b": 2.0, "c": 1.0}
OFFERS = {"a": 0.3, "b": 0.4, "c": 0.35}  # of all that the engines can serve: a little more than everything
ENGINES, SLOTS, KV_TOKENS, STEP_S = 2, 8, 4096, 0.02
INPUT_TOKENS, OUTPUT_TOKENS = 16, 32
LEASE_S, HEARTBEAT_S, TIMEOUT_S, FLUSH_S = 2.0, 0.2, 0.5, 0.02
QUIET_S = 2.0  # before the first fault
PAUSE_S = 2.0
AWAY_S = 1.0  # how long what was killed stays away
LOOK_S = 0.25
SETTLE_S = 20.0
DRAIN_S = 60.0


class Fault(StrEnum):
    """What happens. Each is done by `Chaos` under its name."""

    KILL_REPLICA = "kill -9 of a replica"
    RESTART_STORE = "restart of the store, with its data"
    EMPTY_STORE = "restart of the store, empty"
    PAUSE_STORE = "SIGSTOP of the store"
    KILL_WORKER = "kill -9 of a worker"


@dataclass(frozen=True)
class Planned:
    """`at_s` seconds after the load begins. `victim` numbers the gateway, or the engine, that dies."""

    at_s: float
    fault: Fault
    victim: int


@dataclass(frozen=True)
class ChaosPlan:
    """`call_s` seconds are what one call to the store may take on this machine, where the cost of a death is judged."""

    seed: int
    seconds: float = 60.0
    replicas: int = 4
    call_s: float = 0.1

    def fleet(self, folder: Path) -> FleetPlan:
        times = {"lease_s": LEASE_S, "heartbeat_s": HEARTBEAT_S, "timeout_s": TIMEOUT_S, "flush_s": FLUSH_S}
        return FleetPlan(
            folder,
            WEIGHTS,
            self.replicas,
            engines=ENGINES,
            slots=SLOTS,
            kv_tokens=KV_TOKENS,
            step_s=STEP_S,
            pool={"predict": "none"},
            store=times,
        )

    def schedule(self) -> list[Planned]:
        """The same for the same seed."""
        chance = Random(self.seed)
        faults = [
            fault for _ in range(max(1, round(self.seconds / 60))) for fault in chance.sample(list(Fault), len(Fault))
        ]
        every = (self.seconds - QUIET_S) / len(faults)
        moments = [QUIET_S + (number + chance.uniform(0, 0.5)) * every for number in range(len(faults))]
        return [Planned(at_s, fault, chance.randrange(1000)) for at_s, fault in zip(moments, faults, strict=True)]

    def load(self) -> tuple[Request, ...]:
        most = ENGINES * SLOTS / (OUTPUT_TOKENS * STEP_S)  # requests a second
        rates = {tenant: offer * most for tenant, offer in OFFERS.items()}
        return steady_load(rates, self.seconds, INPUT_TOKENS, OUTPUT_TOKENS)

    @property
    def forgiven_s(self) -> float:
        """For so long may output of a dead replica have gone unreported."""
        return FLUSH_S + self.call_s


class Chaos:
    """Does what was planned, from one thread, one fault after the other. `say` is told each with its time."""

    def __init__(self, fleet: Fleet, store: StoreServer, say: Callable[[str], None]) -> None:
        self.deaths: list[Death] = []
        self.wrong_sums: list[str] = []
        self.looks = 0
        self._fleet = fleet
        self._store = store
        self._say = say
        self._began = time.monotonic()
        self._store_back_at = 0.0
        self._do: dict[Fault, Callable[[int], str]] = {
            Fault.KILL_REPLICA: self._kill_replica,
            Fault.RESTART_STORE: lambda victim: self._restart(keep=True),
            Fault.EMPTY_STORE: lambda victim: self._restart(keep=False),
            Fault.PAUSE_STORE: lambda victim: self._pause(),
            Fault.KILL_WORKER: self._kill_worker,
        }

    def run(self, schedule: list[Planned], look: Callable[[], None]) -> None:
        """Returns when the last fault is over. `look` is called now and then, and may raise."""
        self._began = time.monotonic()
        for planned in schedule:
            self._wait(planned.at_s, look)
            began = self._now()
            detail = self._do[planned.fault](planned.victim)
            self._say(f"{began:6.2f} s  {planned.fault}{detail}; over at {self._now():.2f} s")

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _wait(self, at_s: float, look: Callable[[], None]) -> None:
        while (left := at_s - self._now()) > 0:
            look()
            self._check_sums()
            time.sleep(min(LOOK_S, max(0.0, left)))

    def _check_sums(self) -> None:
        """At any moment, and seen in one transaction, a counter is what was lifted and what the books hold."""
        with suppress(redis.RedisError):
            self.wrong_sums += shares_without_sum(read_store(self._store))
            self.looks += 1

    def _kill_replica(self, victim: int) -> str:
        fleet, number = self._fleet, victim % self._fleet.plan.replicas
        url = fleet.urls[number]
        _until(lambda: standing_of(url) == "shared", f"gateway {number} to share the queue")
        name = name_of(url)
        self._until_told(name, self._store_back_at)
        killed_at = time.time()
        fleet.gateways[number].process.send_signal(signal.SIGKILL)
        fleet.gateways[number].process.wait()
        time.sleep(FLUSH_S)  # what it had sent is applied
        death = Death(url, name, killed_at, books_of(self._store, [name])[name])
        time.sleep(AWAY_S)
        fleet.start_gateway(number)
        fleet.wait_ready(number)
        death.back_at = time.time()
        self.deaths.append(death)
        return f" (gateway {number}, {name})"

    def _until_told(self, name: str, since: float) -> None:
        """What came up while the store was away goes out with the second call after it came back (Unix time)."""
        for _ in range(2):
            since = self._call_after(name, since)

    def _call_after(self, name: str, since: float) -> float:
        """When a gateway calls the store for the first time after `since` (Unix time)."""
        _until(lambda: last_call(self._store, name, LEASE_S) > since, f"{name} to call the store")
        return last_call(self._store, name, LEASE_S)

    def _restart(self, *, keep: bool) -> str:
        self._store.restart(keep=keep)
        self._store_back_at = time.time()
        return ""

    def _pause(self) -> str:
        self._store.pause()
        time.sleep(PAUSE_S)
        self._store.resume()
        self._store_back_at = time.time()
        return f" for {PAUSE_S:g} s"

    def _kill_worker(self, victim: int) -> str:
        number = victim % ENGINES
        self._fleet.engines[number].process.send_signal(signal.SIGKILL)
        self._fleet.engines[number].process.wait()
        time.sleep(AWAY_S)
        self._fleet.start_engine(number)
        return f" (engine {number})"


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
    with Fleet(plan.fleet(folder), lambda what: progress(what, 0.0)) as fleet:
        promises = _endure(plan, fleet, say, progress)
    return tell([*promises, Promise(str(cpu))], console)


def _endure(plan: ChaosPlan, fleet: Fleet, say: Callable[[str], None], progress: Progress) -> list[Promise]:
    assert fleet.store is not None
    target = fleet.target(dict.fromkeys(WEIGHTS, range(plan.replicas)), DRAIN_S)
    load = Background(run_load(target, plan.load(), prompts=WordPrompts(), progress=progress))
    chaos = Chaos(fleet, fleet.store, say)
    try:
        chaos.run(plan.schedule(), load.check)
        record = load.result()
    finally:
        load.cancel()
    progress("waiting for the fleet to settle", 1.0)
    sums = Promise(
        f"counters were lifts plus books at each of {chaos.looks} looks{_first(chaos.wrong_sums)}",
        not chaos.wrong_sums and chaos.looks > 0,
    )
    return [sums, *judge_chaos(fleet, fleet.store, record, chaos.deaths, plan.forgiven_s, SETTLE_S)]


def _first(wrong: list[str]) -> str:
    return f": {len(wrong)} were not, like {wrong[0]}" if wrong else ""


def _until(ready: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SETTLE_S
    while not ready():
        if time.monotonic() > deadline:
            raise ProcessError(f"waited {SETTLE_S:g} s for {what}")
        time.sleep(0.05)
