"""Workloads: who sends how much, and when. The synthetic suites of OSDI'24 section 5 by name, and trace files.

Lengths are 256 input and 256 output tokens where nothing else is said; times are seconds; a client that starts at
0 with rate r sends at 0, 1/r, 2/r... Every suite is one fixed list of requests: chance enters only by `jitter`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from loadgen.errors import LoadgenError
from loadgen.workloads.arena import arena_synthetic, arena_trace
from loadgen.workloads.arrivals import even, on_off, poisson, rising, steady_load
from loadgen.workloads.traces import read_trace
from loadgen.workloads.workload import Request, Workload, by_arrival

LENGTH = 256


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


def _client(number: int) -> str:
    return f"client-{number}"


def _send(tenant: str, times: Iterable[float], length: int = LENGTH) -> Iterator[Request]:
    return (Request(t_s, tenant, length, length) for t_s in times)


def _steady(name: str, duration: float, *rates: float, weights: Iterable[float] = (), length: int = LENGTH) -> Workload:
    of_client = {_client(i): rate for i, rate in enumerate(rates, 1)}
    requests = steady_load(of_client, duration, length, length)
    return Workload(name, requests, {_client(i): weight for i, weight in enumerate(weights, 1)})


def _two(name: str, first: list[float], second: list[float], length: int = LENGTH) -> Workload:
    return Workload(name, by_arrival([*_send(_client(1), first, length), *_send(_client(2), second)]))


def _mirrored() -> Workload:
    """Long questions with short answers against short questions with long answers."""
    asks = (Request(t_s, _client(1), 512, 32) for t_s in poisson(8, 600, "short"))
    answers = (Request(t_s, _client(2), 32, 512) for t_s in poisson(1.5, 600, "long"))
    return Workload("poisson-short-long-2", by_arrival([*asks, *answers]))


def _dist_shift() -> Workload:
    first = [*on_off(0.5, 0, 300), *even(1, 300, 600), *even(0.5, 600, 900)]
    second = [*even(2, 0, 300), *even(1, 300, 600), *even(1.5, 600, 900)]
    return _two("dist-shift", first, second)


def _late_burst() -> Workload:
    """B comes with a burst in the moment in which nothing waits: the case the public artifact gets wrong."""
    steady = [*even(1, 0, 300), *even(3, 300.6, 600)]
    burster = [*[300.5] * 20, *even(6, 300.9, 600)]
    return Workload("late-burst", by_arrival([*_send("A", steady), *_send("B", burster)]))


def _arena27() -> Workload:
    """The real trace, or, named as such, a synthetic one from its statistics."""
    path = arena_trace()
    return Workload("arena27", read_trace(path)) if path else arena_synthetic()


WORKLOADS: dict[str, Callable[[], Workload]] = {
    "overload": lambda: _steady("overload", 360, 1.5, 3),
    "overload-600s": lambda: _steady("overload-600s", 600, 1.5, 3),
    "overload-multi": lambda: _steady("overload-multi", 360, *[0.4] * 3, *[0.6] * 5),
    "overload-weighted": lambda: _steady("overload-weighted", 360, 0.8, 0.8, 1.2, 1.6, weights=(1, 2, 3, 4)),
    "proportional": lambda: _steady("proportional", 600, 0.25, 0.5, 1.5),
    "on-off-less": lambda: _two("on-off-less", on_off(0.5, 0, 600), even(2, 0, 600)),
    "on-off-overload": lambda: _two("on-off-overload", on_off(2, 0, 600), even(3, 0, 600)),
    "poisson-short-long": lambda: _two(
        "poisson-short-long", poisson(8, 600, "short"), poisson(1.5, 600, "long"), length=64
    ),
    "poisson-short-long-2": _mirrored,
    "increase": lambda: _two("increase", even(0.5, 0, 600), rising(0.2, 2, 600)),
    "dist-shift": _dist_shift,
    "late-burst": _late_burst,
    "arena27": _arena27,
    "arena27-synthetic": arena_synthetic,
    # Section 5.4, by pool and length, for the A100.
    "overload-35000-256": lambda: _steady("overload-35000-256", 600, 3, 6),
    "overload-35000-512": lambda: _steady("overload-35000-512", 600, 1.5, 3, length=512),
    "overload-35000-768": lambda: _steady("overload-35000-768", 600, 1, 2, length=768),
    "overload-65000-512": lambda: _steady("overload-65000-512", 600, 2, 4, length=512),
}
