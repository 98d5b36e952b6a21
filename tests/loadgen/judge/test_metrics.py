"""The metrics against hand-counted cases and against a brute-force reading of their definitions."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairness import Weighted
from loadgen.judge.metrics import (
    Cumulative,
    ServiceEvents,
    accumulated_gap,
    intersect,
    jain_index,
    percentiles,
    service_difference,
    summarise,
    time_grid,
    waiting,
)
from loadgen.judge.results import Outcome, Percentiles, RequestRecord, Run

COST = Weighted()


def finished(
    tenant: str, arrival: float, dispatched: float, first: float, end: float, n_in: int = 0, n_out: int = 1
) -> RequestRecord:
    return RequestRecord("r", tenant, n_in, n_out, arrival, Outcome.FINISHED, dispatched, first, end)


def rejected(tenant: str, arrival: float, n_out: int = 1) -> RequestRecord:
    return RequestRecord("r", tenant, 0, n_out, arrival, Outcome.REJECTED, reason="rate_limit")


def log_of(*events: tuple[float, str, float]) -> ServiceEvents:
    log = ServiceEvents()
    for time_s, tenant, service in events:
        log.add(time_s, tenant, service, int(service))
    return log


# -- the accumulated gap -------------------------------------------------------------------------------------------

MOMENTS = st.integers(0, 12).map(float)
SPANS = st.lists(st.tuples(MOMENTS, MOMENTS).filter(lambda span: span[0] < span[1]), max_size=4)
EVENTS = st.lists(st.tuples(st.integers(0, 24).map(lambda i: i / 2), st.sampled_from("abc"), st.integers(1, 9)))


def waits_throughout(spans: list[tuple[float, float]], start: float, end: float) -> bool:
    """Between any two neighbouring half seconds of [start, end) some span is open."""
    halves = np.arange(start + 0.25, end, 0.5)
    return all(any(low < moment < high for low, high in spans) for moment in halves)


def gap_by_definition(
    spans: dict[str, list[tuple[float, float]]], events: list[tuple[float, str, int]], weights: dict[str, float]
) -> float:
    moments = np.arange(0, 13, 0.5)
    widest = 0.0
    for f, g in combinations("abc", 2):
        for start in moments:
            for end in moments[moments > start]:
                if waits_throughout(spans[f], start, end) and waits_throughout(spans[g], start, end):
                    received = {
                        t: sum(s for when, who, s in events if who == t and start < when <= end) for t in (f, g)
                    }
                    widest = max(widest, abs(received[f] / weights[f] - received[g] / weights[g]))
    return widest


@given(st.fixed_dictionaries(dict.fromkeys("abc", SPANS)), EVENTS, st.sampled_from([1.0, 2.0]))
def test_the_gap_is_the_one_of_the_definition(
    spans: dict[str, list[tuple[float, float]]], events: list[tuple[float, str, int]], weight: float
) -> None:
    records = [finished(t, low, high, 20, 21) for t in "abc" for low, high in spans[t]]
    received = Cumulative.of(log_of(*events), "abc")
    waits = [waiting(records, tenant) for tenant in "abc"]
    found = accumulated_gap(received, np.array([1.0, weight, 1.0]), waits)
    expected = gap_by_definition(spans, events, {"a": 1.0, "b": weight, "c": 1.0})
    assert found.max() == pytest.approx(expected)


def overlapping() -> Run:
    """a waits over [0, 10), b over [2, 8): inside a receives 5 at t=4, b 3 at t=6; a's 100 at t=9 do not count."""
    records = [finished("a", 0, 10, 11, 12), finished("b", 2, 8, 9, 9), finished("b", 9.5, 9.5, 10, 10)]
    log = log_of((1, "b", 50), (4, "a", 5), (6, "b", 3), (9, "a", 100))
    return summarise("p", records, log, COST, {})


def test_only_service_while_both_wait_counts() -> None:
    run = overlapping()
    assert run.service_gap_max == 5
    assert run.series.gap[:11] == (0, 0, 0, 0, 5, 0, 3, 0, 0, 0, 0)


def test_the_drain_does_not_count_for_the_maximum_and_stays_in_the_series() -> None:
    records = [finished("a", 0, 10, 11, 12), finished("b", 0, 10, 11, 12)]
    run = summarise("p", records, log_of((5, "a", 7)), COST, {})
    assert (run.service_gap_max, max(run.series.gap), run.last_arrival_s) == (0, 7, 0)


def test_weights_divide_service() -> None:
    records = [finished("a", 0, 10, 10, 10), finished("b", 0, 10, 10, 10), rejected("c", 10)]
    log = log_of((1, "a", 6), (2, "b", 2))
    assert summarise("p", records, log, COST, {}).service_gap_max == 6
    assert summarise("p", records, log, COST, {"a": 3.0}).service_gap_max == 2
    assert summarise("p", records, log, COST, {"a": 3.0, "b": 1.0}).jain == pytest.approx(16 / (3 * 8))


def test_a_tenant_waits_from_its_first_arrival_to_its_last_dispatch() -> None:
    records = [
        finished("a", 0, 3, 4, 5),
        finished("a", 2, 4, 5, 6),
        finished("a", 4, 6, 7, 8),
        finished("a", 9, 9, 10, 11),
        RequestRecord("r", "a", 1, 0, 20, Outcome.ABORTED, finish_s=22),
        RequestRecord("r", "b", 1, 0, 30, Outcome.ABORTED, finish_s=32),
        rejected("a", 50),
    ]
    assert waiting(records, "a") == [(0, 6), (20, 22)]


def test_intervals_intersect() -> None:
    assert intersect([(0, 5), (6, 9)], [(1, 2), (4, 7), (8, 8.5)]) == [(1, 2), (4, 5), (6, 7), (8, 8.5)]
    assert intersect([(0, 1)], [(1, 2)]) == []


# -- the paper's service difference --------------------------------------------------------------------------------


def test_service_difference_by_hand() -> None:
    """T = 630: ticks every 30 s. Both ask 60 units a window and second; a is served at 2/s from 0 on, b never is."""
    records = [finished("a", 0, 0, 0, 1200, n_out=1200)]
    records += [RequestRecord("r", "b", 0, 30, 15.0 + 30 * i, Outcome.ABORTED, finish_s=2000) for i in range(40)]
    found = service_difference(records, ["a", "b"], np.ones(2), COST, 630)
    # a: receives 2/s and asks nothing in windows after its arrival: min(2 - 2, 2) = 0.
    # b: receives nothing and asks 2 * 60/60 s = 2/s: min(2 - 0, 2 - 0) = 2.
    assert (found.max, found.avg, found.var) == pytest.approx((2, 2, 0))


def test_service_difference_sees_only_lag_that_was_asked_for() -> None:
    """b asks half of what a gets and gets nothing: its lag is its own demand, 1/s."""
    records = [finished("a", 0, 0, 0, 1200, n_out=1200)]
    records += [RequestRecord("r", "b", 0, 15, 15.0 + 30 * i, Outcome.ABORTED, finish_s=2000) for i in range(40)]
    assert service_difference(records, ["a", "b"], np.ones(2), COST, 630).avg == pytest.approx(1)


def test_rejected_requests_are_no_demand() -> None:
    records = [finished("a", 0, 0, 0, 1200, n_out=1200), *[rejected("b", 15.0 + 30 * i, 30) for i in range(40)]]
    assert service_difference(records, ["a", "b"], np.ones(2), COST, 630).max == pytest.approx(0)


RICH = finished("b", 0, 0, 0, 1200, n_out=6000)  # 10 units a second throughout, so that a's lag is never capped


def test_service_is_spread_from_first_token_to_end() -> None:
    """T = 630: windows [30, 90], [60, 120], [90, 150]. a asks 2/s in the first two and receives 1, 2 and 1/s."""
    found = service_difference([finished("a", 70, 70, 70, 110, n_out=60), RICH], ["a", "b"], np.ones(2), COST, 630)
    assert found.avg * 19 == pytest.approx(1 + 0 + 1)


def test_service_given_in_one_instant_counts_whole() -> None:
    """Asked before every window, received in an instant that lies in two of them: 2/s too much in each."""
    found = service_difference([finished("a", 20, 70, 70, 70, n_out=60), RICH], ["a", "b"], np.ones(2), COST, 630)
    assert found.avg * 19 == pytest.approx(2 + 2)


# -- the plain ones ------------------------------------------------------------------------------------------------


def test_shares_end_at_the_last_arrival_and_throughput_at_the_end_of_the_drain() -> None:
    records = [finished("a", 0, 1, 2, 20), finished("b", 10, 11, 12, 20)]
    run = summarise("p", records, log_of((2, "a", 30), (9, "b", 10), (10, "b", 60), (20, "b", 100)), COST, {})
    assert {t: (r.service, r.share) for t, r in run.tenants.items()} == {"a": (30, 0.75), "b": (10, 0.25)}
    assert run.jain == pytest.approx(1600 / (2 * 1000))
    assert run.throughput_tokens_per_s == pytest.approx(200 / 20)
    assert (run.last_arrival_s, run.drained_s) == (10, 20)


def test_the_series_is_exact_on_its_grid() -> None:
    records = [finished("a", 0, 1, 2, 20), finished("b", 10, 11, 12, 20)]
    run = summarise("p", records, log_of((2, "a", 30), (9, "b", 10), (9.5, "b", 60)), COST, {})
    series = run.series
    assert series.times_s == tuple(map(float, range(21)))
    assert series.service["a"][:4] == (0, 0, 30, 30)
    assert series.service["b"][8:11] == (0, 10, 70)
    assert series.tokens[-1] == 100
    assert series.shares(0, 9) == {"a": 0.75, "b": 0.25}
    assert series.shares(9, 20) == {"a": 0, "b": 1}
    assert series.shares(12, 20) == {"a": 0, "b": 0}


def test_a_long_run_has_a_bounded_grid() -> None:
    grid = time_grid(3600.5)
    assert len(grid) <= 2_001
    assert grid[0] == 0
    assert grid[-1] >= 3600.5


def test_percentiles_are_nearest_rank() -> None:
    records = [finished("a", 0, 0, float(i), float(i)) for i in range(1, 201)]
    assert percentiles(records) == Percentiles(100, 180, 198)
    assert percentiles([rejected("a", 0)]) == Percentiles(None, None, None)


def test_jain_index() -> None:
    assert jain_index(np.array([2.0, 2.0, 2.0])) == pytest.approx(1)
    assert jain_index(np.array([3.0, 0.0, 0.0])) == pytest.approx(1 / 3)
    assert jain_index(np.zeros(2)) == 1


def test_a_run_in_which_everything_was_rejected_has_figures() -> None:
    run = summarise("p", [rejected("a", 3), rejected("b", 4)], ServiceEvents(), COST, {})
    assert run.count(Outcome.REJECTED) == 2
    assert (run.service_gap_max, run.throughput_tokens_per_s, run.jain) == (0, 0, 1)
    assert run.tenants["a"].ttft_s.p50 is None
