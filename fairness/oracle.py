"""What a perfectly fair fluid server would have given: weighted max-min over backlogged intervals.

At every moment the tenants with work share the rate in proportion to their weights (generalised processor sharing,
Parekh and Gallager 1993, which is weighted max-min fair at each moment). It knows nothing of counters, so measured
shares can be checked against it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Arrival(NamedTuple):
    """`service` units of work for `tenant`, from `t_s` seconds on."""

    t_s: float
    tenant: str
    service: float


def fluid_service(
    arrivals: Iterable[Arrival], rate: float, weights: Mapping[str, float], start_s: float, end_s: float
) -> dict[str, float]:
    """The service units that each tenant receives in [start_s, end_s) from a server of `rate` units a second.

    Tenants without a weight have 1. Raises ValueError when the rate is not above 0.
    """
    if not rate > 0:
        raise ValueError(f"rate is {rate!r}; expected service units a second above 0")
    coming = sorted(arrivals)
    received = dict.fromkeys([arrival.tenant for arrival in coming], 0.0)
    backlog: dict[str, float] = {}
    now, index = 0.0, 0
    while now < end_s:
        while index < len(coming) and coming[index].t_s <= now:
            arrival = coming[index]
            backlog[arrival.tenant] = backlog.get(arrival.tenant, 0.0) + arrival.service
            index += 1
        until = min(end_s, coming[index].t_s if index < len(coming) else end_s)
        now = _drain(backlog, rate, weights, now, until, received, start_s)
    return received


def _drain(
    backlog: dict[str, float],
    rate: float,
    weights: Mapping[str, float],
    now: float,
    until: float,
    received: dict[str, float],
    start_s: float,
) -> float:
    """Serve until the first tenant runs dry or `until`; returns the moment."""
    if not backlog:
        return until
    share = rate / sum(weights.get(tenant, 1.0) for tenant in backlog)
    speed = {tenant: share * weights.get(tenant, 1.0) for tenant in backlog}
    first = min(backlog, key=lambda tenant: backlog[tenant] / speed[tenant])
    dry = now + backlog[first] / speed[first]
    end = min(until, dry)
    for tenant in backlog:
        received[tenant] += speed[tenant] * max(0.0, end - max(now, start_s))
        backlog[tenant] -= speed[tenant] * (end - now)
    if dry <= until:
        del backlog[first]
    return end
