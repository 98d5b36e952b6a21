"""One of several equal parts of a pool's room, for a replica that goes on alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from fairness import Worker
from gateway.pools.room import HealthyRoom


@dataclass(slots=True)
class PartWorker(Worker):
    """A worker of which `tokens` are ours, and all `whole` of them for a request that runs there alone."""

    whole: int = 0

    def fits(self, tokens: int) -> bool:
        if not (self.healthy and self.running < self.slots):
            return False
        return self.reserved + tokens <= self.tokens or (not self.running and tokens <= self.whole)


class PartRoom(HealthyRoom):
    """1/`parts` of each worker, rounded down, and at least one slot. Sizes in KV tokens are told whole; slots are told
    as our part of them. A request that is larger than our part may still have an idle worker to itself: it would
    otherwise wait for the store for no reason.

    Example: a worker of 8 slots and 10,000 tokens, and three replicas. Each has 2 slots and 3,333 tokens: together 6
    slots, so two stay empty rather than one too many being used. With twelve replicas each has 1 slot and 833 tokens:
    together 12 on 8 slots, because a replica without a slot could serve nobody. A request of 4,000 tokens runs where
    nothing of ours does, though it takes more than our 3,333; the next one waits until it has ended."""

    def __init__(self, workers: Iterable[Worker], parts: int, adapters: int) -> None:
        own: list[Worker] = [
            PartWorker(w.id, part_of(w.slots, parts), part_of(w.tokens, parts), healthy=w.healthy, whole=w.tokens)
            for w in workers
        ]
        super().__init__(own, dict.fromkeys([worker.id for worker in own], adapters))
        self.parts = parts

    def most(self, worker: Worker) -> int:
        return cast(PartWorker, worker).whole

    def set_worker(
        self, worker_id: str, *, healthy: bool | None = None, slots: int | None = None, tokens: int | None = None
    ) -> None:
        if tokens is not None:
            cast(PartWorker, self.workers[worker_id]).whole = tokens
            tokens = part_of(tokens, self.parts)
        super().set_worker(worker_id, healthy=healthy, slots=slots, tokens=tokens)


def part_of(whole: int, parts: int) -> int:
    return max(1, whole // parts)
