"""The metrics of DESIGN section 8, from what was seen: request records and service as it happened.

`summarise` is the one way from a run to its figures, for the simulator and for the live client alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import ceil

import numpy as np
from numpy.typing import NDArray

from fairness import CostFunction
from loadgen.judge.results import (
    Outcome,
    Percentiles,
    RequestRecord,
    Run,
    Series,
    ServiceDifference,
    TenantResult,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Intervals = Sequence[tuple[float, float]]

WINDOW_S = 60.0
TICKS = 20
MAX_GRID = 2_000  # points of a time series


@dataclass(slots=True)
class ServiceEvents:
    """Service as it happened: the input when its prefill ended, each output token as it was produced."""

    times_s: list[float] = field(default_factory=list)
    tenants: list[str] = field(default_factory=list)
    service: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def add(self, time_s: float, tenant: str, service: float, tokens: int) -> None:
        """`tenant` received `service` units for `tokens` input and output tokens at `time_s`."""
        self.times_s.append(time_s)
        self.tenants.append(tenant)
        self.service.append(service)
        self.tokens.append(tokens)


@dataclass(frozen=True, slots=True)
class Cumulative:
    """Service and tokens received so far, as step functions: column k + 1 holds from `times_s[k]` on, column 0
    before. Shapes: times_s [events], service [tenants, events + 1], tokens [events + 1]."""

    tenants: tuple[str, ...]
    times_s: Floats
    service: Floats
    tokens: Floats

    @classmethod
    def of(cls, events: ServiceEvents, tenants: Sequence[str]) -> Cumulative:
        times_s, moment = np.unique(np.asarray(events.times_s, dtype=np.float64), return_inverse=True)
        row = {tenant: i for i, tenant in enumerate(tenants)}
        rows = np.fromiter((row[tenant] for tenant in events.tenants), dtype=np.intp, count=len(events.tenants))
        service = np.zeros((len(tenants), len(times_s) + 1))
        np.add.at(service, (rows, moment + 1), events.service)
        tokens = np.bincount(moment + 1, weights=events.tokens, minlength=len(times_s) + 1)
        return cls(tuple(tenants), times_s, np.cumsum(service, axis=1), np.cumsum(tokens))

    def column(self, moments: Floats | float, *, before: bool = False) -> Ints:
        """The column in force at each moment; with `before`, just before it."""
        return np.searchsorted(self.times_s, np.atleast_1d(moments), side="left" if before else "right")


def summarise(
    policy: str,
    records: Iterable[RequestRecord],
    events: ServiceEvents,
    cost: CostFunction,
    weights: Mapping[str, float],
    *,
    horizon_s: float | None = None,
) -> Run:
    """The figures of one run that has drained. `weights` of tenants whose weight is not 1.

    `horizon_s` is the T of the service difference; the last arrival where it is None.
    """
    kept = tuple(records)
    by_tenant = _by_tenant(kept)
    tenants = tuple(by_tenant)
    weight = np.array([weights.get(tenant, 1.0) for tenant in tenants])
    received = Cumulative.of(events, tenants)
    last_arrival = max((record.arrival_s for record in kept), default=0.0)
    end = max([last_arrival, *(record.finish_s or 0.0 for record in kept), *received.times_s[-1:].tolist()])
    gap = accumulated_gap(received, weight, [waiting(own, tenant) for tenant, own in by_tenant.items()])
    offered = received.service[:, received.column(last_arrival, before=True)[0]]
    return Run(
        policy=policy,
        service_gap_max=float(gap[: received.column(last_arrival)[0] + 1].max()),
        service_difference=service_difference(kept, tenants, weight, cost, horizon_s or last_arrival),
        throughput_tokens_per_s=float(received.tokens[-1] / end) if end else 0.0,
        jain=jain_index(offered / weight),
        ttft_s=percentiles(kept),
        tenants=_tenant_results(by_tenant, offered),
        records=kept,
        series=_series(received, time_grid(end), gap),
        last_arrival_s=last_arrival,
        drained_s=end,
    )


def jain_index(values: Floats) -> float:
    """(sum x)^2 / (n sum x^2): 1 when all are equal, 1/n when one has everything. 1 when nobody has anything."""
    squares = float((values**2).sum())
    return float(values.sum()) ** 2 / (len(values) * squares) if squares else 1.0


def percentiles(records: Iterable[RequestRecord]) -> Percentiles:
    """Of the time to first token."""
    return Percentiles.of(record.ttft_s for record in records if record.ttft_s is not None)


def waiting(records: Iterable[RequestRecord], tenant: str) -> list[tuple[float, float]]:
    """The maximal intervals in which at least one request of `tenant` waits."""
    spans = sorted(
        (record.arrival_s, left)
        for record in records
        if record.tenant == tenant
        for left in (record.dispatched_s if record.dispatched_s is not None else record.finish_s,)
        if left is not None and left > record.arrival_s
    )
    merged: list[tuple[float, float]] = []
    for start, end in spans:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def intersect(first: Intervals, second: Intervals) -> list[tuple[float, float]]:
    """The intervals that lie in both lists; each list is in order and without overlap."""
    both, i, j = [], 0, 0
    while i < len(first) and j < len(second):
        start, end = max(first[i][0], second[j][0]), min(first[i][1], second[j][1])
        if start < end:
            both.append((start, end))
        if first[i][1] < second[j][1]:
            i += 1
        else:
            j += 1
    return both


def accumulated_gap(received: Cumulative, weight: Floats, waits: Sequence[Intervals]) -> Floats:
    """For each column of `received` the largest |dW_f/w_f - dW_g/w_g| over pairs and over intervals that end there
    and in which both wait throughout. Shape [events + 1]; the maximum over a time span is its `service_gap_max`.

    In an interval that ends in t, the difference D = W_f/w_f - W_g/w_g has moved at most from its lowest or its
    highest value since both began to wait.
    """
    gap = np.zeros(len(received.times_s) + 1)
    share = received.service / weight[:, None]
    for f, g in combinations(range(len(waits)), 2):
        both = np.array(intersect(waits[f], waits[g])).reshape(-1, 2)
        difference = share[f] - share[g]
        for i, j in zip(received.column(both[:, 0]), received.column(both[:, 1]), strict=True):
            if j > i:
                np.maximum(gap[i : j + 1], _moved(difference[i : j + 1]), out=gap[i : j + 1])
    return gap


def _moved(difference: Floats) -> Floats:
    """How far the difference has moved, at most, over any interval that ends at each point."""
    highest, lowest = np.maximum.accumulate(difference), np.minimum.accumulate(difference)
    return np.maximum(highest - difference, difference - lowest)


def service_difference(
    records: Sequence[RequestRecord],
    tenants: Sequence[str],
    weight: Floats,
    cost: CostFunction,
    horizon_s: float,
    demand_cost: CostFunction | None = None,
) -> ServiceDifference:
    """The paper's table 2 (OSDI'24 section 5.1), as its artifact computes it. Rates in service units per second and
    weight. The service of a finished request is spread evenly from its first token to its end. Per window of 60 s
        sum over clients of  min(max service of any client - s_i, |demand_i - s_i|)
    where the demand is what arrived and was not rejected, by `demand_cost`, by `cost` where that is None. Windows
    centre on 30 + k (T - 30) / 20, k = 1..19.
    """
    row = {tenant: i for i, tenant in enumerate(tenants)}
    finished = [r for r in records if r.outcome is Outcome.FINISHED]
    accepted = [r for r in records if r.outcome is not Outcome.REJECTED]
    served, asked = spans(finished, row, weight, cost), spans(accepted, row, weight, demand_cost or cost)
    values = []
    for k in range(1, TICKS):
        middle = WINDOW_S / 2 + k * max(0.0, horizon_s - WINDOW_S / 2) / TICKS
        low, high = middle - WINDOW_S / 2, middle + WINDOW_S / 2
        received = served.rates(served.overlap(low, high), len(tenants))
        arrived = (asked.arrival >= low) & (asked.arrival <= high)
        demand = asked.rates(arrived.astype(np.float64), len(tenants))
        lag = np.minimum(received.max(initial=0.0) - received, np.abs(demand - received))
        values.append(float(lag.sum()))
    return ServiceDifference(max(values), float(np.mean(values)), float(np.var(values)))


@dataclass(frozen=True, slots=True)
class Spans:
    """Requests as arrays [requests]: tenant row, service over weight, arrival, and when it was served.

    The paper's plots spread the service of a request evenly from its first token to its end.
    """

    row: Ints
    service: Floats
    arrival: Floats
    first: Floats
    end: Floats

    def overlap(self, low: float, high: float) -> Floats:
        """The part of each request that was served in [low, high]; one served in an instant counts where it lies."""
        length = self.end - self.first
        inside = ((self.first >= low) & (self.first < high)).astype(np.float64)
        covered = np.maximum(np.minimum(self.end, high) - np.maximum(self.first, low), 0.0)
        return np.where(length > 0, covered / np.where(length > 0, length, 1.0), inside)

    def rates(self, parts: Floats, tenants: int) -> Floats:
        return np.bincount(self.row, weights=parts * self.service, minlength=tenants) / WINDOW_S


def spans(records: Sequence[RequestRecord], row: Mapping[str, int], weight: Floats, cost: CostFunction) -> Spans:
    """The records as arrays. `row` numbers the tenants, `weight` is by row."""
    rows = np.array([row[r.tenant] for r in records], dtype=np.intp)
    service = np.array([cost.service(r.input_tokens, r.output_tokens) for r in records], dtype=np.float64)
    moments = [(r.arrival_s, r.first_token_s or 0.0, r.finish_s or 0.0) for r in records]
    arrival, first, end = np.array(moments, dtype=np.float64).reshape(-1, 3).T
    return Spans(rows, service / weight[rows], arrival, first, end)


def time_grid(end_s: float) -> Floats:
    """Whole seconds from 0 to past the end; whole multiples of more seconds where that gave too many points."""
    step = max(1, ceil(end_s / MAX_GRID))
    return np.arange(0, ceil(end_s / step) + 1, dtype=np.float64) * step


def _series(received: Cumulative, grid: Floats, gap: Floats) -> Series:
    columns = received.column(grid)
    binned = np.zeros(len(grid))
    np.maximum.at(binned, np.searchsorted(grid, received.times_s), gap[1:])
    service = received.service[:, columns]
    return Series(
        times_s=tuple(grid.tolist()),
        service={tenant: tuple(service[i].tolist()) for i, tenant in enumerate(received.tenants)},
        gap=tuple(binned.tolist()),
        tokens=tuple(received.tokens[columns].tolist()),
    )


def _by_tenant(records: Iterable[RequestRecord]) -> dict[str, list[RequestRecord]]:
    """Each tenant's records; tenants in order of their names."""
    found: dict[str, list[RequestRecord]] = {}
    for record in records:
        found.setdefault(record.tenant, []).append(record)
    return dict(sorted(found.items()))


def _tenant_results(by_tenant: Mapping[str, Sequence[RequestRecord]], service: Floats) -> dict[str, TenantResult]:
    total = float(service.sum())
    return {
        tenant: TenantResult(
            service=received,
            share=received / total if total else 0.0,
            finished=sum(record.outcome is Outcome.FINISHED for record in own),
            rejected=sum(record.outcome is Outcome.REJECTED for record in own),
            ttft_s=percentiles(own),
        )
        for (tenant, own), received in zip(by_tenant.items(), service.tolist(), strict=True)
    }
