"""Whose turn it is when a ticket whose adapter is at hand may go a little ahead (`Vtc.slack`)."""

from __future__ import annotations

from collections.abc import Callable

from fairness.room import Obstacle, Residency
from fairness.shares import MILLI, Group, Tenant
from fairness.ticket import Ticket

REACH = 32  # members of a group that are looked at, so that a pick stays O(log n)


class Locality:
    """`slack` in service / weight. `predict` tells the output that a ticket reserves."""

    def __init__(self, residency: Residency, slack: float, predict: Callable[[Ticket], int]) -> None:
        self._residency = residency
        self._slack = round(slack * MILLI)
        self._predict = predict

    def choose(self, root: Group, first: Tenant) -> Tenant | None:
        """Within the slack, one whose adapter is already there; others pass `first` only where it lacks no more
        than an adapter slot, and then the next slot that frees is held for it."""
        obstacle = self._obstacle(first.head())
        if obstacle is Obstacle.ROOM:
            return None
        if obstacle is Obstacle.ADAPTER:
            self._residency.hold(first.head())  # instead of a former head that may have left the queue
            obstacle = self._residency.obstacle(first.head())
        for tenant in root.near(self._slack, REACH):
            head = tenant.head()
            if self._obstacle(head) is Obstacle.NONE and self._residency.resident(head):
                return tenant
        return first if obstacle is Obstacle.NONE else None

    def _obstacle(self, ticket: Ticket) -> Obstacle:
        ticket.predicted = self._predict(ticket)
        return self._residency.obstacle(ticket)
