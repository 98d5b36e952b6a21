"""Round robin: one turn each, whatever a request costs. VTC where every request costs 1."""

from __future__ import annotations

from fairness.cost import CostFunction
from fairness.policies.base import Policy
from fairness.ticket import Ticket


class RoundRobin(Policy):
    name = "rr"

    def measure(self, cost: CostFunction, ticket: Ticket, produced: int) -> float:
        return 1.0
