"""When requests arrive: moments in seconds, by rate and law; and the steady load of tenants with a rate each."""

from __future__ import annotations

import random
from collections.abc import Mapping
from math import sqrt

from loadgen.workloads.workload import Request

PERIOD_S = 60.0  # of the on-off clients: on for one period, off for the next


def even(rate: float, start: float, end: float) -> list[float]:
    """Evenly spaced moments in [start, end), `rate` a second."""
    return [start + i / rate for i in range(round((end - start) * rate))]


def on_off(rate: float, start: float, end: float) -> list[float]:
    return [t_s for t_s in even(rate, start, end) if t_s // PERIOD_S % 2 == 0]


def rising(first: float, last: float, duration: float) -> list[float]:
    """Moments whose rate rises linearly from `first` to `last`: where first*t + (last-first)*t^2/2T is whole."""
    slope = (last - first) / duration
    total = (first + last) / 2 * duration
    return [(sqrt(first * first + 2 * slope * i) - first) / slope for i in range(round(total))]


def poisson(rate: float, duration: float, draw: str) -> list[float]:
    """Moments of a Poisson process over [0, duration); `draw` names the draw, always the same one."""
    chance = random.Random(draw)
    moments, t_s = [], chance.expovariate(rate)
    while t_s < duration:
        moments.append(t_s)
        t_s += chance.expovariate(rate)
    return moments


def steady_load(
    rates: Mapping[str, float], seconds: float, input_tokens: int, output_tokens: int, model: str = ""
) -> tuple[Request, ...]:
    """Evenly spaced requests of one size: `rates` in requests per second by tenant, the first of each at 0."""
    requests = [
        Request(t_s, tenant, input_tokens, output_tokens, model)
        for tenant, rate in rates.items()
        for t_s in even(rate, 0.0, seconds)
    ]
    return tuple(sorted(requests))
