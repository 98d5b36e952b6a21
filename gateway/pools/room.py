"""The room of a pool whose workers come and go."""

from __future__ import annotations

from collections.abc import Iterable

from fairness import AdapterRoom, Capacity, Ticket, Worker


class HealthyRoom(AdapterRoom):
    """What is reserved for a ticket never exceeds the largest *healthy* worker, or the head could block the pool
    until another is back. With no worker healthy the largest of all counts: nothing is dispatched then anyway."""

    _known: Capacity | None = None

    def capacity(self) -> Capacity:
        if self._known is None:
            healthy = [worker for worker in self.workers.values() if worker.healthy]
            self._known = super().capacity()._replace(largest=self._largest(healthy or self.workers.values()))
        return self._known

    def most(self, worker: Worker) -> int:
        """KV tokens that one request can have there."""
        return worker.tokens

    def _largest(self, workers: Iterable[Worker]) -> int:
        return max(map(self.most, workers), default=0)

    def set_worker(
        self, worker_id: str, *, healthy: bool | None = None, slots: int | None = None, tokens: int | None = None
    ) -> None:
        super().set_worker(worker_id, healthy=healthy, slots=slots, tokens=tokens)
        self._known = None

    def must_wait_for_another(self, ticket: Ticket) -> bool:
        """No healthy worker can ever take the ticket, but one that is away could."""
        needed = ticket.input_tokens + 1
        return self.capacity().largest < needed <= self._largest(self.workers.values())
