"""Room: what the workers of a pool can hold at once. The fit rule of DESIGN section 3.

A ticket in flight reserves n_in + max(predicted, produced) KV tokens and one running slot on one worker.
Everything the scheduler charges ahead of time is reserved here first, and given back only in the step that
settles it: the bound rests on that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from mypy_extensions import mypyc_attr

from fairness.ticket import LawError, Ticket


class Capacity(NamedTuple):
    """A pool's capacity: KV tokens M over all workers, running slots over all workers, tokens of the largest worker."""

    tokens: int
    slots: int
    largest: int


class Room(Protocol):
    """What a scheduler asks of the workers behind it."""

    def capacity(self) -> Capacity: ...

    def place(self, ticket: Ticket) -> str | None:
        """Reserve room for `ticket` and name the worker, or None when no worker can take it now."""

    def take(self, ticket: Ticket, worker_id: str) -> None:
        """Reserve room for a ticket that already runs on a worker, whether it fits or not."""

    def grow(self, ticket: Ticket, tokens: int) -> int:
        """A ticket that runs turned out `tokens` larger (smaller when negative) than `place` was told. Returns how
        many of them the room had not set aside."""

    def release(self, ticket: Ticket) -> None:
        """Give back everything `ticket` holds."""

    def check_integrity(self, in_flight: Iterable[Ticket]) -> None:
        """Raises LawError unless exactly what the tickets in flight hold is reserved."""


class Obstacle(Enum):
    """What keeps a ticket from being placed now."""

    NONE = "none"
    ROOM = "room"  # running slots or KV tokens
    ADAPTER = "adapter"  # an adapter slot, and nothing else


class Residency(Protocol):
    """What a room that knows which adapters (or prefixes) its workers hold tells besides."""

    def resident(self, ticket: Ticket) -> bool:
        """A worker that holds what the ticket needs could take it, or it needs nothing."""

    def obstacle(self, ticket: Ticket) -> Obstacle: ...

    def hold(self, ticket: Ticket) -> None:
        """Keep the next adapter slot that frees for this ticket's adapter."""


@dataclass(slots=True)
class Worker:
    """One engine: its running slots and KV tokens, and what is reserved of them."""

    id: str
    slots: int
    tokens: int
    running: int = 0
    reserved: int = 0
    healthy: bool = True

    def fits(self, tokens: int) -> bool:
        return self.healthy and self.running < self.slots and self.reserved + tokens <= self.tokens

    def load(self) -> float:
        """The fuller of its two resources, 0..1 and above when an engine produced more than was predicted."""
        return max(self.running / self.slots, self.reserved / self.tokens)


@mypyc_attr(allow_interpreted_subclasses=True)
class WorkerRoom:
    """The room of a pool of workers; a ticket goes to the least loaded worker that can take it."""

    def __init__(self, workers: list[Worker]) -> None:
        self.workers = {worker.id: worker for worker in workers}
        self._measure()

    def _measure(self) -> None:
        healthy = [worker for worker in self.workers.values() if worker.healthy]
        self._capacity = Capacity(
            sum(worker.tokens for worker in healthy),
            sum(worker.slots for worker in healthy),
            max((worker.tokens for worker in self.workers.values()), default=0),
        )

    def capacity(self) -> Capacity:
        return self._capacity

    def set_worker(
        self, worker_id: str, *, healthy: bool | None = None, slots: int | None = None, tokens: int | None = None
    ) -> None:
        """Change what is known of a worker. What it runs stays reserved on it until it is settled."""
        worker = self.workers.setdefault(worker_id, Worker(worker_id, slots or 1, tokens or 1))
        worker.healthy = worker.healthy if healthy is None else healthy
        worker.slots = worker.slots if slots is None else slots
        worker.tokens = worker.tokens if tokens is None else tokens
        self._measure()

    def place(self, ticket: Ticket) -> str | None:
        fitting = self.fitting(ticket)
        if not fitting:
            return None
        best = min(fitting, key=Worker.load)
        self.take(ticket, best.id)
        return best.id

    def take(self, ticket: Ticket, worker_id: str) -> None:
        worker = self.workers.get(worker_id)
        if worker is None:
            raise LawError(f"ticket {ticket.id} runs on {worker_id!r}; expected one of {', '.join(self.workers)}")
        worker.running += 1
        ticket.reserved = _size(ticket)
        worker.reserved += ticket.reserved

    def fitting(self, ticket: Ticket) -> list[Worker]:
        """The workers that could take it now."""
        tokens = _size(ticket)
        return [worker for worker in self._eligible(ticket) if worker.fits(tokens)]

    def _eligible(self, ticket: Ticket) -> list[Worker]:
        """The healthy workers; those to avoid only when no other is left, or the head would block the pool."""
        healthy = [worker for worker in self.workers.values() if worker.healthy]
        return [worker for worker in healthy if worker.id not in ticket.avoid] or healthy

    def grow(self, ticket: Ticket, tokens: int) -> int:
        ticket.reserved += tokens
        self.workers[ticket.worker].reserved += tokens
        return max(0, tokens)

    def release(self, ticket: Ticket) -> None:
        worker = self.workers[ticket.worker]
        if worker.running < 1 or worker.reserved < ticket.reserved:
            raise LawError(f"worker {worker.id} gives back more room than it holds ({ticket.id})")
        worker.running -= 1
        worker.reserved -= ticket.reserved
        ticket.reserved = 0

    def check_integrity(self, in_flight: Iterable[Ticket]) -> None:
        running, reserved = Counter[str](), Counter[str]()
        for ticket in in_flight:
            running[ticket.worker] += 1
            reserved[ticket.worker] += ticket.reserved
        for worker in self.workers.values():
            if (worker.running, worker.reserved) != (running[worker.id], reserved[worker.id]):
                raise LawError(f"worker {worker.id} holds room that no ticket in flight reserved")


def _size(ticket: Ticket) -> int:
    return ticket.input_tokens + max(ticket.predicted, ticket.produced)
