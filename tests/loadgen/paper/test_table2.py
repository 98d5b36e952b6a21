"""The paper's table 2 on the real 27-client trace, mean over ten jittered seeds."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from loadgen.paper.table2 import PUBLISHED, Figures, Key, reproduce, table
from loadgen.workloads.arena import TRACES_VARIABLE, arena_trace

SEEDS = range(1, 11)
KEYS: list[Key] = [(policy, "none") for policy in ("fcfs", "lcf", "vtc", "rpm:5", "rpm:20", "rpm:30")]


@pytest.fixture(scope="module")
def found() -> dict[Key, Figures]:
    if arena_trace() is None:
        pytest.skip(f"the 27-client trace is not here; name its folder in {TRACES_VARIABLE}")
    return reproduce(SEEDS, KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_the_service_difference_is_the_published_one(found: dict[Key, Figures], key: Key) -> None:
    published = PUBLISHED[key]
    assert found[key].diff_avg == pytest.approx(published.diff_avg, rel=0.15)
    if published.diff_max is not None:
        assert found[key].diff_max == pytest.approx(published.diff_max, rel=0.45)


def test_vtc_stays_below_fcfs_at_the_same_throughput(found: dict[Key, Figures]) -> None:
    vtc, fcfs = found["vtc", "none"], found["fcfs", "none"]
    assert vtc.diff_max is not None
    assert fcfs.diff_max is not None
    assert vtc.diff_max < 0.8 * fcfs.diff_max
    assert vtc.throughput is not None
    assert vtc.throughput == pytest.approx(779, rel=0.05)
    assert vtc.throughput == pytest.approx(fcfs.throughput, rel=0.01)


def test_rpm_buys_its_difference_with_throughput_and_rejects(found: dict[Key, Figures]) -> None:
    limits = [found[f"rpm:{limit}", "none"] for limit in (5, 20, 30)]
    assert limits[0].throughput == pytest.approx(340, rel=0.05)
    throughputs = [figures.throughput for figures in (*limits, found["vtc", "none"])]
    assert throughputs == sorted(throughputs)
    rejects = [figures.rejected for figures in (*limits, found["vtc", "none"])]
    assert rejects == sorted(rejects, reverse=True)
    assert rejects[-1] == 0


def test_the_table_shows_both() -> None:
    console = Console(file=io.StringIO(), width=120)
    console.print(table({("rpm:5", "none"): Figures(151.2, 88.0, 339.4, 919.0)}, 10))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    for words in ("151 (144)", "88 (84)", "339 (340)", "919", "10 seeds"):
        assert words in printed
