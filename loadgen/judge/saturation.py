"""Whether the shares of a live run mean anything: did every tenant want more than it got, for long enough?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from math import inf

from fairness import CostFunction
from loadgen.judge.metrics import intersect, waiting
from loadgen.judge.results import Comparison, Run

LEAST_OFFER = 1.2  # times its fair share that each tenant alone must offer (DESIGN section 8)


@dataclass(frozen=True, slots=True)
class Saturation:
    """Whether the shares of a run can show a policy at all (DESIGN section 8, "Live shares").

    `offers`: what each tenant alone offers, in times of its fair share of the service that was given. `window_s`: the
    longest interval in which every tenant waits throughout, (0, 0) where there is none; `shares`, `service` (units)
    are over it, and `needed` is the service from which on shares are within `tolerance`: 2U / (2 * tolerance).
    """

    offers: Mapping[str, float]
    window_s: tuple[float, float]
    shares: Mapping[str, float]
    service: float
    needed: float

    @property
    def meaningful(self) -> bool:
        return min(self.offers.values()) >= LEAST_OFFER and self.service >= self.needed

    def __str__(self) -> str:
        offers = ", ".join(f"{tenant} {offer:.2f}" for tenant, offer in self.offers.items())
        shares = ", ".join(f"{tenant} {share:.3f}" for tenant, share in self.shares.items())
        start, end = self.window_s
        where = f"all wait over {start:.0f}-{end:.0f} s: shares {shares}" if end else "never do all wait at once"
        return (
            f"{where}; service in it {self.service:,.0f} (needed {self.needed:,.0f}); offered, in fair shares: "
            f"{offers} (needed {LEAST_OFFER}); {'enough' if self.meaningful else 'NOT enough'} to judge shares by"
        )


def saturation(
    run: Run, cost: CostFunction, weights: Mapping[str, float], bound: float, tolerance: float
) -> Saturation:
    """`bound` is 2U / min(w); `tolerance` is how far a share may lie from its fair value, like .03."""
    tenants = list(run.tenants)
    window = _saturated_window(run)
    start, end = window
    received = {tenant: _received(run, tenant, end) - _received(run, tenant, start) for tenant in tenants}
    least = min(weights.get(tenant, 1.0) for tenant in tenants)
    return Saturation(
        offers=_offers(run, cost, weights),
        window_s=window,
        shares=run.series.shares(start, end),
        service=sum(received.values()),
        needed=bound * least / (2 * tolerance),
    )


def _received(run: Run, tenant: str, moment: float) -> float:
    """Service of a tenant up to the last grid point not after `moment`."""
    at = sum(time <= moment for time in run.series.times_s) - 1
    return run.series.service[tenant][max(at, 0)]


def _saturated_window(run: Run) -> tuple[float, float]:
    waits = reduce(intersect, (waiting(run.records, tenant) for tenant in run.tenants))
    inside = [(start, min(end, run.last_arrival_s)) for start, end in waits if start < run.last_arrival_s]
    return max(inside, key=lambda span: span[1] - span[0], default=(0.0, 0.0))


def _offers(run: Run, cost: CostFunction, weights: Mapping[str, float]) -> dict[str, float]:
    """What each tenant asks for, over its part (by weight) of all that was served while requests arrived."""
    asked = dict.fromkeys(run.tenants, 0.0)
    for record in run.records:
        asked[record.tenant] += cost.service(record.input_tokens, record.output_tokens)
    total_weight = sum(weights.get(tenant, 1.0) for tenant in run.tenants)
    served = sum(result.service for result in run.tenants.values())
    part = {tenant: served * weights.get(tenant, 1.0) / total_weight for tenant in run.tenants}
    return {tenant: asked[tenant] / part[tenant] if served else inf for tenant in run.tenants}


def live_comparison(
    workload: str,
    runs: Iterable[Run],
    cost: CostFunction,
    weights: Mapping[str, float],
    bound: float,
    *,
    tolerance: float = 0.03,
    settings: Mapping[str, str] | None = None,
) -> Comparison:
    """Live runs of one workload as a comparison; how far their shares can be trusted stands in its settings."""
    kept = tuple(runs)
    trust = {f"shares under {run.policy}": str(saturation(run, cost, weights, bound, tolerance)) for run in kept}
    return Comparison(workload, 0, bound, kept, dict(weights), dict(settings or {}) | trust)
