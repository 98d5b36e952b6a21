"""Which tickets have waited too long."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from math import inf

from fairness.ticket import State, Ticket


class Deadlines:
    """A heap of tickets by deadline; those that no longer wait are dropped lazily, before they outnumber the rest."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Ticket]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, ticket: Ticket, waiting: int) -> None:
        """`waiting` is the number of tickets in the queue."""
        heapq.heappush(self._heap, (ticket.deadline, ticket.seq, ticket))
        if len(self._heap) > 2 * waiting + 64:
            self._heap = [entry for entry in self._heap if entry[2].state is State.WAITING]
            heapq.heapify(self._heap)

    def due(self, now: float) -> Iterator[Ticket]:
        """Takes out the tickets that still wait at or after their deadline."""
        while self._heap and self._heap[0][0] <= now:
            ticket = heapq.heappop(self._heap)[2]
            if ticket.state is State.WAITING:
                yield ticket

    def next(self) -> float:
        """The first deadline of a ticket that waits, or infinity."""
        while self._heap and self._heap[0][2].state is not State.WAITING:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else inf
