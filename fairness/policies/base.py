"""The interface of a policy, and its defaults."""

from __future__ import annotations

from fairness.cost import CostFunction
from fairness.ticket import Refusal, Ticket


class Policy:
    """Plain VTC is the default of everything; a policy says what it does otherwise.

    `quantum` (counter units, thousandths of service / weight) is the step below which counters count as equal, so
    that the oldest head goes first. `slack` (service / weight) is how far from the least counter a ticket may be
    taken for the sake of its adapter. `aging` makes strict classes of `Ticket.priority`: a class passed over that
    many times in a row has the next turn; 0 means that there are no classes.
    """

    name: str = "policy"
    lifts: bool = True  # a tenant whose queue becomes non-empty is lifted (DESIGN section 3, "Lift")
    tree: bool = True  # ids are paths in a tree of shares
    quantum: int = 1
    slack: float = 0.0
    aging: int = 0

    @property
    def allowance(self) -> float:
        """What the order adds to the bound, in service units / weight."""
        return self.slack

    def measure(self, cost: CostFunction) -> CostFunction:
        """What is charged to the counters, where it is not the configured cost."""
        return cost

    def admit(self, ticket: Ticket, now: float) -> Refusal | None:
        """Turn an arrival away, or None. `now` in seconds, any origin."""
        return None
