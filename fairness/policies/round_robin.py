"""Round robin: one turn each, whatever a request costs. VTC where every request costs 1."""

from __future__ import annotations

from fairness.cost import CostFunction
from fairness.policies.base import Policy


class RoundRobin(Policy):
    name = "rr"

    def measure(self, cost: CostFunction, n_in: int, n_out: int, cached: int) -> float:
        return 1.0
