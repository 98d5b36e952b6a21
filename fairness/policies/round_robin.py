"""Round robin: one turn each, whatever a request costs. VTC where every request costs 1."""

from __future__ import annotations

from typing import ClassVar

from fairness.cost import CostFunction
from fairness.policies.base import Policy


class PerRequest:
    """The cost function of a turn."""

    def service(self, n_in: int, n_out: int, cached: int = 0) -> float:
        return 1.0

    def most_rise(self, tokens: int, largest: int, longest_input: int) -> float:
        return 1.0


class RoundRobin(Policy):
    forms: ClassVar[tuple[str, ...]] = ("rr",)
    help: ClassVar[str] = "round robin: one request each, whatever it costs"
    spec = "rr"
    bounded = False  # turns are shared evenly, service is not
    per_request = True

    def measure(self, cost: CostFunction) -> CostFunction:
        return PerRequest()
