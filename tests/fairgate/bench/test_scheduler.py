"""The scheduler's benchmark measures what it says. No test depends on speed."""

from __future__ import annotations

import pytest

from fairgate.bench.scheduler import Memory, Speed, bench_memory, bench_speed, markdown


def test_it_runs_with_few_and_with_all_waiting() -> None:
    for known, waiting in ((20, 10), (20, 20)):
        speed = bench_speed(known, waiting, rounds=1, round_s=0.0)
        assert (speed.known, speed.waiting) == (known, waiting)
        assert speed.us_per_cycle * speed.cycles_per_s == pytest.approx(1e6)


def test_a_tenant_holds_more_than_another_request() -> None:
    memory = bench_memory(200)
    assert memory.per_waiting_tenant > memory.per_waiting_request > 0


def test_the_table_shows_the_figures() -> None:
    table = markdown([Speed(1000, 10, 25_000.4, 39.96)], Memory(1600.2, 212.7))
    assert "| 1,000 | 10 | 25,000 | 40.0 |" in table
    assert "1,600 bytes for a tenant" in table
    assert "213 bytes for each further request" in table
