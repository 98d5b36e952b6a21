"""What one gateway replica has charged, by path: its part of counters that live elsewhere, kept without a scheduler.

A counter of shared state is what lifts added and what every replica's tickets were charged. Here a replica counts
its own part, by the law's arithmetic (`fairness.shares.milli`): whoever prices the same tickets at the same weights
has the same totals, to the unit, and as they are totals they can be told twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fairness.cost import CostFunction
from fairness.shares import milli, paths
from fairness.ticket import LawError, Ticket


@dataclass(slots=True)
class Line:
    """What one level of the tree is charged for one open ticket."""

    path: str
    weight: float
    charged: int = 0  # milli-units


class Book:
    """Open a ticket when it is dispatched, settle it as its tokens are seen, then close it, or undo it.

    `cost` is what the policy measures (`Policy.measure`). A ticket that is not open can be settled, closed and undone
    without effect, so that a report which comes twice changes nothing. O(levels) a call.
    """

    def __init__(self, cost: CostFunction) -> None:
        self._cost = cost
        self._open: dict[Ticket, list[Line]] = {}
        self._totals: dict[str, int] = {}

    def open(self, ticket: Ticket, weights: Sequence[float]) -> None:
        """Charge the input, and the output as far as it is predicted or produced. `weights` are the tenant's, then
        that of each group above it, bottom up; the tenant's alone where the policy has no tree.

        Raises LawError when the ticket is open already, ValueError when there are not as many weights as levels.
        """
        if ticket in self._open:
            raise LawError(f"ticket {ticket.id} is open in the book already")
        levels = zip(paths(ticket.tenant, tree=len(weights) != 1), weights, strict=True)
        self._open[ticket] = [Line(path, weight) for path, weight in levels]
        self.settle(ticket)

    def settle(self, ticket: Ticket) -> None:
        """Charge, or refund, the difference to what the ticket owes now, as it says itself of its tokens."""
        self._settle(ticket, max(ticket.predicted, ticket.produced))

    def close(self, ticket: Ticket) -> None:
        """The ticket is over and stays charged for what was produced."""
        self._settle(ticket, ticket.produced)
        self._open.pop(ticket, None)

    def undo(self, ticket: Ticket) -> None:
        """As if the ticket had never been opened."""
        for line in self._open.pop(ticket, ()):
            self._totals[line.path] -= line.charged

    def charged(self, ticket: Ticket) -> list[int]:
        """Milli-units by level, bottom up; empty when the ticket is not open."""
        return [line.charged for line in self._open.get(ticket, ())]

    def weights(self, ticket: Ticket) -> list[float]:
        """By level, bottom up; empty when the ticket is not open."""
        return [line.weight for line in self._open.get(ticket, ())]

    def open_tickets(self) -> Iterable[Ticket]:
        """In the order in which they were opened."""
        return list(self._open)

    def price_by(self, cost: CostFunction) -> None:
        """From now on tickets cost this; what is charged stays until its ticket is settled the next time."""
        self._cost = cost

    def total(self, path: str) -> int:
        """Milli-units ever charged at `path`."""
        return self._totals.get(path, 0)

    def totals(self) -> dict[str, int]:
        """Milli-units ever charged, by path: a tenant's id, or a group's with a slash at its end. Paths stay for
        ever."""
        return dict(self._totals)

    def _settle(self, ticket: Ticket, produced: int) -> None:
        lines = self._open.get(ticket, ())
        service = self._cost.service(ticket.input_tokens, produced, ticket.cached_tokens) + ticket.load
        for line in lines:
            due = milli(service, line.weight)
            self._totals[line.path] = self._totals.get(line.path, 0) + due - line.charged
            line.charged = due
