"""The curves of the paper's plots (OSDI'24, section 5.1), from request records alone.

As in its artifact the service of a finished request is spread evenly from its first token to its end, rates are over
windows of +-30 s, and the response time is the time to first token. `loadgen.judge.metrics` has the exact service;
these curves are for comparison with published ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fairness import CostFunction
from loadgen.judge.metrics import WINDOW_S, Floats, Spans, spans
from loadgen.judge.results import Outcome, RequestRecord

HALF_S = WINDOW_S / 2


def tenants_of(records: Sequence[RequestRecord]) -> list[str]:
    return sorted({record.tenant for record in records})


def accumulated(records: Sequence[RequestRecord], cost: CostFunction, moments: Floats, start_s: float = 0.0) -> Floats:
    """W_i(start, t) of each tenant in order of name, in service units. Shape [tenants, moments]."""
    served = _served(records, cost)
    return _per_tenant(served, tenants_of(records), [served.overlap(start_s, t) * served.service for t in moments])


def accumulated_difference(
    records: Sequence[RequestRecord], cost: CostFunction, moments: Floats, start_s: float = 0.0
) -> Floats:
    """max over i, j of |W_i(start, t) - W_j(start, t)|. Shape [moments]."""
    received = accumulated(records, cost, moments, start_s)
    return np.asarray(received.max(axis=0) - received.min(axis=0))


def service_rates(records: Sequence[RequestRecord], cost: CostFunction, moments: Floats) -> Floats:
    """Service per second of each tenant around each moment; the window is cut off at 0. Shape [tenants, moments]."""
    served = _served(records, cost)
    rows = [
        served.overlap(max(0.0, t - HALF_S), t + HALF_S) * served.service / (t + HALF_S - max(0.0, t - HALF_S))
        for t in moments
    ]
    return _per_tenant(served, tenants_of(records), rows)


def demand_rates(records: Sequence[RequestRecord], cost: CostFunction, moments: Floats) -> Floats:
    """Service per second that each tenant asks for, by arrival. Shape [tenants, moments]."""
    asked = _spans_of(records, records, cost)
    rows = [((asked.arrival >= t - HALF_S) & (asked.arrival <= t + HALF_S)) * asked.service / WINDOW_S for t in moments]
    return _per_tenant(asked, tenants_of(records), rows)


def response_times(records: Sequence[RequestRecord], moments: Floats) -> Floats:
    """Mean time to first token of each tenant's requests whose first token came within +-30 s of each moment, in
    seconds; NaN where there was none. Shape [tenants, moments]."""
    return np.array([_responses([r for r in records if r.tenant == name], moments) for name in tenants_of(records)])


def _responses(own: Sequence[RequestRecord], moments: Floats) -> list[float]:
    seen = [(r.first_token_s, r.ttft_s) for r in own if r.first_token_s is not None]
    first, waited = np.array(seen, dtype=np.float64).reshape(-1, 2).T
    near = [waited[np.abs(first - t) <= HALF_S] for t in moments]
    return [float(times.mean()) if len(times) else float("nan") for times in near]


def _served(records: Sequence[RequestRecord], cost: CostFunction) -> Spans:
    return _spans_of(records, [r for r in records if r.outcome is Outcome.FINISHED], cost)


def _spans_of(everything: Sequence[RequestRecord], kept: Sequence[RequestRecord], cost: CostFunction) -> Spans:
    row = {tenant: i for i, tenant in enumerate(tenants_of(everything))}
    return spans(kept, row, np.ones(len(row)), cost)


def _per_tenant(parts: Spans, tenants: Sequence[str], per_moment: Sequence[Floats]) -> Floats:
    columns = [np.bincount(parts.row, weights=part, minlength=len(tenants)) for part in per_moment]
    return np.array(columns, dtype=np.float64).T
