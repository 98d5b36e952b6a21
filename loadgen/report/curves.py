"""The curves of the pictures, not yet drawn: rates and medians over time, from the results of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadgen.judge.results import Run

Line = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Panel:
    """Named lines over common points `x`. More lines than can be told apart are drawn thin and without names, but
    for those in `marked`."""

    title: str
    x_label: str
    y_label: str
    x: Line
    lines: Mapping[str, Line]
    marked: Sequence[str] = ()


def half_window_s(run: Run) -> float:
    """Half of the moving window of a service rate: the paper's 30 s, less where the run is short."""
    return min(30.0, run.last_arrival_s / 20) or 1.0


def service_rate(run: Run, tenant: str, times_s: Line) -> Line:
    """Service per second of a tenant around each moment, over a window of +-`half_window_s` cut off at 0."""
    half = half_window_s(run)
    service = run.series.service[tenant]
    low, high = np.maximum(times_s - half, 0), times_s + half
    received = np.interp(high, run.series.times_s, service) - np.interp(low, run.series.times_s, service)
    return np.asarray(received / (high - low))


def arrival_bins(run: Run) -> Line:
    """The edges of 5 to 30 even bins of the arrivals: a tenant's bin holds four requests or more, if that is enough."""
    per_tenant = len(run.records) / max(1, len(run.tenants))
    return np.linspace(0, max(run.last_arrival_s, 1e-9), 1 + int(np.clip(per_tenant / 4, 5, 30)))


def binned_ttft(run: Run, tenant: str, edges: Line) -> Line:
    """Median time to first token of what arrived between two edges; NaN where nothing of it was answered."""
    seen = [(r.arrival_s, r.ttft_s) for r in run.records if r.tenant == tenant and r.ttft_s is not None]
    if not seen:
        return np.full(len(edges) - 1, np.nan)
    arrivals, ttft = (np.array(column, float) for column in zip(*seen, strict=True))
    place = np.clip(np.searchsorted(edges, arrivals, side="right") - 1, 0, len(edges) - 2)
    return np.array([np.median(ttft[place == k]) if (place == k).any() else np.nan for k in range(len(edges) - 1)])


def mean_curve(lines: Sequence[Line]) -> Line:
    stacked = np.array(lines)
    known = np.maximum((~np.isnan(stacked)).sum(axis=0), 1)
    mean = np.nansum(stacked, axis=0) / known
    return np.where(np.isnan(stacked).all(axis=0), np.nan, mean)
