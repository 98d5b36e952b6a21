"""A replica that goes on alone while the store is lost: its share of the room, and the counters it knows.

With n replicas seen last, each takes 1/n of a worker's slots (at least one) and of its KV tokens. A request that is
larger than this share may still have an idle worker to itself: it would otherwise wait for the store for no reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

from fairness import Auditor, Balances, Predictor, Scheduler, Worker
from gateway.pools.drain_rate import DrainRate
from gateway.pools.local import LocalPool
from gateway.pools.room import HealthyRoom
from gateway.pools.shared.holdings import Held
from gateway.pools.shared.known import Known
from gateway.pools.shared.settings import Settings


@dataclass(slots=True)
class PartWorker(Worker):
    """A worker of which `tokens` are ours, and all `whole` of them for a request that runs there alone."""

    whole: int = 0

    def fits(self, tokens: int) -> bool:
        if not (self.healthy and self.running < self.slots):
            return False
        return self.reserved + tokens <= self.tokens or (not self.running and tokens <= self.whole)


class PartRoom(HealthyRoom):
    """1/`parts` of each worker. Sizes in KV tokens are told whole; slots are told as our part of them."""

    def __init__(self, workers: Iterable[Worker], parts: int, adapters: int) -> None:
        own: list[Worker] = [
            PartWorker(w.id, part_of(w.slots, parts), part_of(w.tokens, parts), healthy=w.healthy, whole=w.tokens)
            for w in workers
        ]
        super().__init__(own, dict.fromkeys((worker.id for worker in own), adapters))
        self._parts = parts

    def most(self, worker: Worker) -> int:
        return cast(PartWorker, worker).whole

    def set_worker(
        self, worker_id: str, *, healthy: bool | None = None, slots: int | None = None, tokens: int | None = None
    ) -> None:
        if tokens is not None:
            cast(PartWorker, self.workers[worker_id]).whole = tokens
            tokens = part_of(tokens, self._parts)
        super().set_worker(worker_id, healthy=healthy, slots=slots, tokens=tokens)


def part_of(whole: int, parts: int) -> int:
    return max(1, whole // parts)


def pool_alone(
    name: str,
    settings: Settings,
    known: Known,
    counters: dict[str, int],
    room: PartRoom,
    predictor: Predictor,
    *,
    auditor: Auditor,
    clock: Callable[[], float],
    drain_rate: DrainRate,
) -> LocalPool:
    """A pool in this process that begins where the shared one was. `counters` are net of what runs."""
    limits = settings.limits
    scheduler = Scheduler(
        settings.policy.unlimited(),
        settings.cost,
        room,
        weights=settings.weights,
        default_weight=settings.default_weight,
        predictor=predictor,
        auditor=auditor,
        max_waiting=limits["waiting"],
        max_waiting_per_tenant=limits["per_tenant"],
        tenant_bounds=limits["tenants"],
    )
    scheduler.seed(Balances(counters, known.floors()))
    return LocalPool(name, scheduler, room, clock=clock, drain_rate=drain_rate)


def limit_alone(settings: Settings, parts: int, pool: LocalPool) -> None:
    """What waited has been admitted before; from now on a policy with a rate limit admits its part."""
    pool.scheduler.policy = settings.policy.part(parts)


def net_counters(known: Known, running: Iterable[Held], charged: Callable[[Held], dict[str, int]]) -> dict[str, int]:
    """The counters less what `running` tickets will be charged again when they are resumed."""
    held = [charged(one) for one in running]
    counters = known.counters(path for lines in held for path in lines)
    for lines in held:
        for path, amount in lines.items():
            counters[path] -= amount
    return {path: max(0, counter) for path, counter in counters.items()}
