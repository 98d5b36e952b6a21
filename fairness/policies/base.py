"""The interface of a policy, and its defaults."""

from __future__ import annotations

from fairness.cost import CostFunction
from fairness.ticket import Refusal, Ticket


class Policy:
    """Plain VTC is the default of every method; a policy overrides what it does otherwise."""

    name: str = "policy"
    lifts: bool = True  # a tenant whose queue becomes non-empty is lifted (DESIGN section 3, "Lift")

    def measure(self, cost: CostFunction, n_in: int, n_out: int, cached: int) -> float:
        """The service a request has received so far, in the units that order tenants. Never falls as n_out rises."""
        return cost.service(n_in, n_out, cached)

    def admit(self, ticket: Ticket, now: float) -> Refusal | None:
        """Turn an arrival away, or None. `now` in seconds, any origin."""
        return None
