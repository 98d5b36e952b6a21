"""When a refused client is told to come back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.pools.drain_rate import DrainRate, retry_headers


def test_retry_after_follows_the_measured_rate() -> None:
    rate = DrainRate(lambda: 0.0)
    for k in range(300):
        rate.dispatched(k / 10)  # ten a second
    soon, late = rate.retry_after(20, 30.0), rate.retry_after(200, 30.0)
    assert 2 <= soon <= 4
    assert late == pytest.approx(10 * soon)
    assert rate.retry_after(10**9, 30.0) == 60.0
    assert rate.retry_after(0, 30.0) == 1.0


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 10_000), st.floats(0, 1e6))
def test_retry_after_is_never_zero_and_always_bounded(chance: float, waiting: int, now: float) -> None:
    headers = retry_headers(DrainRate(lambda: chance).retry_after(waiting, now))
    assert 1 <= int(headers["Retry-After"]) <= 75
    assert 1 <= int(headers["retry-after-ms"]) <= 75_000


def test_refused_clients_do_not_come_back_all_at_once() -> None:
    chances = iter([0.0, 0.5])
    rate = DrainRate(lambda: next(chances))
    assert rate.retry_after(10, 0.0) < rate.retry_after(10, 0.0)
