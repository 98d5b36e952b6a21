"""First come, first served: nothing moves a counter, so every pick is a tie and the oldest head wins."""

from __future__ import annotations

from fairness.cost import CostFunction
from fairness.policies.base import Policy


class Fcfs(Policy):
    name = "fcfs"
    lifts = False

    def measure(self, cost: CostFunction, n_in: int, n_out: int, cached: int) -> float:
        return 0.0
