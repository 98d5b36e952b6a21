"""A workload: requests in order of arrival. Times in seconds from the start, lengths in tokens."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

JITTER_S = 0.05


class Request(NamedTuple):
    """One request of a workload: it arrives at `t_s` and will produce exactly `output_tokens`."""

    t_s: float
    tenant: str
    input_tokens: int
    output_tokens: int
    model: str = ""
    session: str = ""


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests in order of arrival, and the weights of tenants whose weight is not 1."""

    name: str
    requests: tuple[Request, ...]
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def tenants(self) -> tuple[str, ...]:
        return tuple(sorted({request.tenant for request in self.requests}))

    def stretched(self, factor: float) -> Workload:
        """Arrivals `factor` times as far apart: above 1 is a lighter load."""
        return self._moved(lambda t_s: t_s * factor)

    def jittered(self, seed: int) -> Workload:
        """Each arrival up to 50 ms later, uniformly; seed 0: as it is."""
        if seed == 0:
            return self
        chance = random.Random(seed)
        return self._moved(lambda t_s: t_s + chance.uniform(0.0, JITTER_S))

    def _moved(self, move: Callable[[float], float]) -> Workload:
        return replace(self, requests=by_arrival(request._replace(t_s=move(request.t_s)) for request in self.requests))


def by_arrival(requests: Iterable[Request]) -> tuple[Request, ...]:
    """In order of arrival; what arrives at the same moment keeps its order."""
    return tuple(sorted(requests, key=lambda request: request.t_s))
