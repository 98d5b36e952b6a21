"""Workloads: who sends how much, and when. The synthetic suites of OSDI'24 section 5 by name, and trace files.

Lengths are 256 input and 256 output tokens where nothing else is said; times are seconds; a client that starts at
0 with rate r sends at 0, 1/r, 2/r... Every suite is one fixed list of requests: chance enters only by `jitter`.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import exp, log, sqrt
from pathlib import Path

from loadgen.workloads.traces import LoadgenError, Request, read_trace

LENGTH = 256
PERIOD_S = 60.0  # of the on-off clients: on for one period, off for the next
JITTER_S = 0.05
TRACES_VARIABLE = "FAIRGATE_TRACES"
ARENA_FILE = "vtc_arena27.csv.gz"


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
        return replace(self, requests=_ordered(request._replace(t_s=move(request.t_s)) for request in self.requests))


def load_workload(spec: str) -> Workload:
    """The workload called `spec`, or the trace file at that path.

    Raises LoadgenError that lists the names when `spec` is neither, and for a malformed trace.
    """
    if spec in WORKLOADS:
        return WORKLOADS[spec]()
    path = Path(spec)
    if path.is_file():
        return Workload(spec, read_trace(path))
    raise LoadgenError(
        f"workload {spec!r} is neither a name nor a file; expected one of {', '.join(WORKLOADS)}, "
        "or the path of a trace (.csv or .csv.gz)"
    )


def _ordered(requests: Iterable[Request]) -> tuple[Request, ...]:
    return tuple(sorted(requests, key=lambda request: request.t_s))


def _client(number: int) -> str:
    return f"client-{number}"


def _send(tenant: str, times: Iterable[float], length: int = LENGTH) -> Iterator[Request]:
    return (Request(t_s, tenant, length, length) for t_s in times)


def _even(rate: float, start: float, end: float) -> list[float]:
    """Evenly spaced moments in [start, end), `rate` a second."""
    return [start + i / rate for i in range(round((end - start) * rate))]


def _on_off(rate: float, start: float, end: float) -> list[float]:
    return [t_s for t_s in _even(rate, start, end) if t_s // PERIOD_S % 2 == 0]


def _rising(first: float, last: float, duration: float) -> list[float]:
    """Moments whose rate rises linearly from `first` to `last`: where first*t + (last-first)*t^2/2T is whole."""
    slope = (last - first) / duration
    total = (first + last) / 2 * duration
    return [(sqrt(first * first + 2 * slope * i) - first) / slope for i in range(round(total))]


def _poisson(rate: float, duration: float, draw: str) -> list[float]:
    chance = random.Random(draw)
    moments, t_s = [], chance.expovariate(rate)
    while t_s < duration:
        moments.append(t_s)
        t_s += chance.expovariate(rate)
    return moments


def _steady(name: str, duration: float, *rates: float, weights: Iterable[float] = (), length: int = LENGTH) -> Workload:
    requests = [r for i, rate in enumerate(rates, 1) for r in _send(_client(i), _even(rate, 0, duration), length)]
    return Workload(name, _ordered(requests), {_client(i): weight for i, weight in enumerate(weights, 1)})


def _two(name: str, first: list[float], second: list[float], length: int = LENGTH) -> Workload:
    return Workload(name, _ordered([*_send(_client(1), first, length), *_send(_client(2), second)]))


def _mirrored() -> Workload:
    """Long questions with short answers against short questions with long answers."""
    asks = (Request(t_s, _client(1), 512, 32) for t_s in _poisson(8, 600, "short"))
    answers = (Request(t_s, _client(2), 32, 512) for t_s in _poisson(1.5, 600, "long"))
    return Workload("poisson-short-long-2", _ordered([*asks, *answers]))


def _dist_shift() -> Workload:
    first = [*_on_off(0.5, 0, 300), *_even(1, 300, 600), *_even(0.5, 600, 900)]
    second = [*_even(2, 0, 300), *_even(1, 300, 600), *_even(1.5, 600, 900)]
    return _two("dist-shift", first, second)


def _late_burst() -> Workload:
    """B comes with a burst in the moment in which nothing waits: the case the public artifact gets wrong."""
    steady = [*_even(1, 0, 300), *_even(3, 300.6, 600)]
    burster = [*[300.5] * 20, *_even(6, 300.9, 600)]
    return Workload("late-burst", _ordered([*_send("A", steady), *_send("B", burster)]))


# The trace of the paper's tables 2 and 3 in numbers: requests of each client over 600 s, lengths in tokens at
# the quantiles 0, .1, .25, .5, .75, .9, .99 and 1, and how much the rate rises from the first second to the last.
ARENA_REQUESTS = (
    296,
    262,
    199,
    120,
    67,
    66,
    56,
    46,
    44,
    43,
    40,
    36,
    31,
    26,
    25,
    23,
    22,
    22,
    19,
    19,
    12,
    11,
    7,
    3,
    2,
    2,
    1,
)
ARENA_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
ARENA_INPUT = (2, 5, 13, 40, 161, 432, 902, 1021)
ARENA_OUTPUT = (2, 18, 62, 211, 458, 513, 785, 977)
ARENA_S = 600.0
ARENA_RISE = 1.3


def _arena_synthetic() -> Workload:
    chance = random.Random("arena27-synthetic")
    requests = [
        Request(_arena_moment(chance), f"client-{client:02}", _draw(chance, ARENA_INPUT), _draw(chance, ARENA_OUTPUT))
        for client, count in enumerate(ARENA_REQUESTS)
        for _ in range(count)
    ]
    return Workload("arena27-synthetic", _ordered(requests))


def _arena_moment(chance: random.Random) -> float:
    """A moment whose density rises linearly by ARENA_RISE over the trace."""
    rise = ARENA_RISE - 1
    return ARENA_S * (sqrt(1 + rise * (2 + rise) * chance.random()) - 1) / rise


def _draw(chance: random.Random, lengths: tuple[int, ...]) -> int:
    """A length from its quantiles, log-linear between them."""
    u = chance.random()
    above = next(i for i, q in enumerate(ARENA_QUANTILES) if q > u)
    low, high = log(lengths[above - 1]), log(lengths[above])
    part = (u - ARENA_QUANTILES[above - 1]) / (ARENA_QUANTILES[above] - ARENA_QUANTILES[above - 1])
    return round(exp(low + part * (high - low)))


def arena_trace() -> Path | None:
    """Where the 27-client trace lies: in the folder FAIRGATE_TRACES, else in shared/traces beside the checkout."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "traces"
    path = Path(os.environ.get(TRACES_VARIABLE) or beside) / ARENA_FILE
    return path if path.is_file() else None


def _arena27() -> Workload:
    """The real trace, or, named as such, a synthetic one from its statistics."""
    path = arena_trace()
    return Workload("arena27", read_trace(path)) if path else _arena_synthetic()


WORKLOADS: dict[str, Callable[[], Workload]] = {
    "overload": lambda: _steady("overload", 360, 1.5, 3),
    "overload-600s": lambda: _steady("overload-600s", 600, 1.5, 3),
    "overload-multi": lambda: _steady("overload-multi", 360, *[0.4] * 3, *[0.6] * 5),
    "overload-weighted": lambda: _steady("overload-weighted", 360, 0.8, 0.8, 1.2, 1.6, weights=(1, 2, 3, 4)),
    "proportional": lambda: _steady("proportional", 600, 0.25, 0.5, 1.5),
    "on-off-less": lambda: _two("on-off-less", _on_off(0.5, 0, 600), _even(2, 0, 600)),
    "on-off-overload": lambda: _two("on-off-overload", _on_off(2, 0, 600), _even(3, 0, 600)),
    "poisson-short-long": lambda: _two(
        "poisson-short-long", _poisson(8, 600, "short"), _poisson(1.5, 600, "long"), length=64
    ),
    "poisson-short-long-2": _mirrored,
    "increase": lambda: _two("increase", _even(0.5, 0, 600), _rising(0.2, 2, 600)),
    "dist-shift": _dist_shift,
    "late-burst": _late_burst,
    "arena27": _arena27,
    "arena27-synthetic": _arena_synthetic,
    # Section 5.4, by pool and length, for the A100.
    "overload-35000-256": lambda: _steady("overload-35000-256", 600, 3, 6),
    "overload-35000-512": lambda: _steady("overload-35000-512", 600, 1.5, 3, length=512),
    "overload-35000-768": lambda: _steady("overload-35000-768", 600, 1, 2, length=768),
    "overload-65000-512": lambda: _steady("overload-65000-512", 600, 2, 4, length=512),
}
