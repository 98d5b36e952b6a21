"""The faults of `fairgate chaos`, done one after the other, and what was seen of the store between them.

A gateway that was killed is followed a second later by a new one at its address, which the store knows under another
name.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

import redis

from fairgate.topology.deployment import Deployment
from fairgate.topology.processes import wait_until
from fairgate.topology.stores import StoreServer
from fairgate.trials.inspection import books_of, last_call, name_of, read_store, shares_without_sum, standing_of
from fairgate.trials.verdicts import Death

LEASE_S, FLUSH_S = 2.0, 0.02  # of the gateways
PAUSE_S = 2.0
AWAY_S = 1.0  # how long what was killed stays away
LOOK_S = 0.25
SETTLE_S = 20.0


class Fault(StrEnum):
    """What happens. Each is done by `Faults`."""

    KILL_REPLICA = "kill -9 of a replica"
    RESTART_STORE = "restart of the store, with its data"
    EMPTY_STORE = "restart of the store, empty"
    PAUSE_STORE = "SIGSTOP of the store"
    KILL_WORKER = "kill -9 of a worker"


@dataclass(frozen=True)
class PlannedFault:
    """`at_s` seconds after the load begins. `victim` numbers the gateway, or the engine, that dies."""

    at_s: float
    fault: Fault
    victim: int


class Faults:
    """Does what was planned, from one thread, one fault after the other. `say` is told each with its time."""

    def __init__(self, deployment: Deployment, store: StoreServer, say: Callable[[str], None]) -> None:
        self.deaths: list[Death] = []
        self.wrong_sums: list[str] = []
        self.looks = 0
        self._deployment = deployment
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

    def run(self, schedule: list[PlannedFault], look: Callable[[], None]) -> None:
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
        deployment, number = self._deployment, victim % len(self._deployment.plan.gateways)
        gateway = deployment.plan.gateways[number]
        url = deployment.url(gateway)
        _wait(lambda: standing_of(url) == "shared", f"gateway {number} to share the queue")
        name = name_of(url)
        self._until_told(name, self._store_back_at)
        killed_at = time.time()
        deployment.kill(gateway)
        time.sleep(FLUSH_S)  # what it had sent is applied
        death = Death(url, name, killed_at, books_of(self._store, [name])[name])
        time.sleep(AWAY_S)
        deployment.start_member(gateway)
        death.back_at = time.time()
        self.deaths.append(death)
        return f" (gateway {number}, {name})"

    def _until_told(self, name: str, since: float) -> None:
        """What came up while the store was away goes out with the second call after it came back (Unix time)."""
        for _ in range(2):
            since = self._call_after(name, since)

    def _call_after(self, name: str, since: float) -> float:
        """When a gateway calls the store for the first time after `since` (Unix time)."""
        _wait(lambda: last_call(self._store, name, LEASE_S) > since, f"{name} to call the store")
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
        number = victim % len(self._deployment.plan.workers)
        worker = self._deployment.plan.workers[number]
        self._deployment.kill(worker)
        time.sleep(AWAY_S)
        self._deployment.start_member(worker)
        return f" (engine {number})"


def _wait(ready: Callable[[], bool], what: str) -> None:
    wait_until(ready, what, SETTLE_S, every_s=0.05)
