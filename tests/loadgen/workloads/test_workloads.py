"""The suites send what they say: rates, lengths, periods, phases."""

from __future__ import annotations

import gzip
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from loadgen.errors import LoadgenError
from loadgen.workloads.arena import ARENA_REQUESTS, TRACES_VARIABLE
from loadgen.workloads.arrivals import steady_load
from loadgen.workloads.catalogue import WORKLOADS, load_workload
from loadgen.workloads.workload import Workload

SYNTHETIC = [name for name in WORKLOADS if name != "arena27"]


def sent(load: Workload, tenant: str, start: float = 0.0, end: float = 1e9) -> list[float]:
    return [request.t_s for request in load.requests if request.tenant == tenant and start <= request.t_s < end]


def offered(name: str) -> tuple[dict[str, int], set[tuple[int, int]]]:
    load = load_workload(name)
    return (
        dict(Counter(request.tenant for request in load.requests)),
        {(request.input_tokens, request.output_tokens) for request in load.requests},
    )


@pytest.mark.parametrize("name", SYNTHETIC)
def test_every_suite_is_in_order_and_is_the_same_each_time(name: str) -> None:
    load = load_workload(name)
    times = [request.t_s for request in load.requests]
    assert times == sorted(times)
    assert load == load_workload(name)
    assert load.name == name


@pytest.mark.parametrize(
    ("name", "seconds", "rates"),
    [
        ("overload", 360, [1.5, 3]),
        ("overload-multi", 360, [0.4] * 3 + [0.6] * 5),
        ("overload-weighted", 360, [0.8, 0.8, 1.2, 1.6]),
        ("proportional", 600, [0.25, 0.5, 1.5]),
    ],
)
def test_steady_suites_send_evenly_at_their_rates(name: str, seconds: int, rates: list[float]) -> None:
    counts, lengths = offered(name)
    assert counts == {f"client-{i}": round(rate * seconds) for i, rate in enumerate(rates, 1)}
    assert lengths == {(256, 256)}
    load = load_workload(name)
    for i, rate in enumerate(rates, 1):
        times = sent(load, f"client-{i}")
        steps = [later - sooner for sooner, later in pairwise(times)]
        assert steps == pytest.approx([1 / rate] * len(steps))


@pytest.mark.parametrize(
    ("name", "rates", "length"),
    [
        ("overload-600s", [1.5, 3], 256),
        ("overload-35000-256", [3, 6], 256),
        ("overload-35000-512", [1.5, 3], 512),
        ("overload-35000-768", [1, 2], 768),
        ("overload-65000-512", [2, 4], 512),
    ],
)
def test_suites_of_the_ablation_last_ten_minutes(name: str, rates: list[float], length: int) -> None:
    counts, lengths = offered(name)
    assert counts == {f"client-{i}": round(rate * 600) for i, rate in enumerate(rates, 1)}
    assert lengths == {(length, length)}


def test_poisson_short_long_2_mirrors_its_lengths() -> None:
    load = load_workload("poisson-short-long-2")
    sizes = {(request.tenant, request.input_tokens, request.output_tokens) for request in load.requests}
    assert sizes == {("client-1", 512, 32), ("client-2", 32, 512)}
    assert len(sent(load, "client-1")) == pytest.approx(8 * 600, rel=0.05)
    assert len(sent(load, "client-2")) == pytest.approx(1.5 * 600, rel=0.1)


def test_overload_weighted_brings_its_weights() -> None:
    assert load_workload("overload-weighted").weights == {f"client-{i}": i for i in (1, 2, 3, 4)}


@pytest.mark.parametrize(("name", "on", "other"), [("on-off-less", 0.5, 2), ("on-off-overload", 2, 3)])
def test_on_off_clients_send_in_every_other_minute(name: str, on: float, other: float) -> None:
    load = load_workload(name)
    for minute in range(10):
        expected = 0 if minute % 2 else on * 60
        assert len(sent(load, "client-1", 60 * minute, 60 * minute + 60)) == expected
    assert len(sent(load, "client-2")) == other * 600


def test_poisson_short_long_has_its_rates_and_lengths() -> None:
    counts, lengths = offered("poisson-short-long")
    assert lengths == {(64, 64), (256, 256)}
    for tenant, rate in (("client-1", 8), ("client-2", 1.5)):
        expected = rate * 600
        assert abs(counts[tenant] - expected) < 4 * expected**0.5
    load = load_workload("poisson-short-long")
    assert {r.input_tokens for r in load.requests if r.tenant == "client-1"} == {64}


def test_increase_rises_from_a_fifth_to_two_a_second() -> None:
    load = load_workload("increase")
    assert len(sent(load, "client-1")) == 300
    assert len(sent(load, "client-2")) == 660
    for start in (0, 300, 540):
        middle = 0.2 + 1.8 * (start + 30) / 600
        assert len(sent(load, "client-2", start, start + 60)) == pytest.approx(60 * middle, abs=1)


def test_dist_shift_has_three_phases() -> None:
    load = load_workload("dist-shift")
    counts = [[len(sent(load, f"client-{i}", start, start + 300)) for i in (1, 2)] for start in (0, 300, 600)]
    assert counts == [[90, 600], [300, 300], [150, 450]]
    assert not sent(load, "client-1", 60, 120)


def test_late_burst_is_the_one_of_the_design() -> None:
    load = load_workload("late-burst")
    assert sent(load, "A", 0, 300.6) == [float(i) for i in range(300)]
    assert sent(load, "B", 0, 300.9) == [300.5] * 20
    assert sent(load, "A", 300.55)[:2] == pytest.approx([300.6, 300.6 + 1 / 3])
    assert sent(load, "B", 300.55)[:2] == pytest.approx([300.9, 300.9 + 1 / 6])
    assert 599.5 < max(request.t_s for request in load.requests) < 600


def test_the_synthetic_arena_has_the_published_statistics() -> None:
    counts, lengths = offered("arena27-synthetic")
    assert sorted(counts.values(), reverse=True) == list(ARENA_REQUESTS)
    assert sum(ARENA_REQUESTS) == 1500
    assert all(2 <= n_in <= 1021 and 2 <= n_out <= 977 for n_in, n_out in lengths)
    requests = load_workload("arena27-synthetic").requests
    assert sum(r.input_tokens for r in requests) / 1500 == pytest.approx(136, rel=0.15)
    assert sum(r.output_tokens for r in requests) / 1500 == pytest.approx(256, rel=0.15)
    assert 0 <= requests[0].t_s < requests[-1].t_s <= 600


def test_without_the_trace_the_arena_is_synthetic_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRACES_VARIABLE, str(tmp_path))
    assert load_workload("arena27").name == "arena27-synthetic"


def test_the_folder_of_traces_is_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "t_s,tenant,input_tokens,output_tokens,model,session\n0,me,1,2,,\n"
    (tmp_path / "vtc_arena27.csv.gz").write_bytes(gzip.compress(rows.encode()))
    monkeypatch.setenv(TRACES_VARIABLE, str(tmp_path))
    load = load_workload("arena27")
    assert (load.name, load.tenants) == ("arena27", ("me",))


def test_jitter_delays_by_at_most_50_ms_and_is_reproducible() -> None:
    load = load_workload("overload")
    once, again, other = load.jittered(7), load.jittered(7), load.jittered(8)
    assert once == again != other
    for tenant in load.tenants:
        delays = [late - t for t, late in zip(sent(load, tenant), sent(once, tenant), strict=True)]
        assert 0 <= min(delays) < 0.005
        assert 0.045 < max(delays) <= 0.05
    assert load.jittered(0) is load


def test_stretching_moves_arrivals_apart_and_leaves_lengths() -> None:
    load = load_workload("poisson-short-long")
    stretched = load.stretched(2.0)
    assert [r.t_s for r in stretched.requests] == [2 * r.t_s for r in load.requests]
    assert [r[1:] for r in stretched.requests] == [r[1:] for r in load.requests]


def test_an_unknown_workload_lists_the_names() -> None:
    with pytest.raises(LoadgenError, match="'overlod' is neither a name nor a file") as error:
        load_workload("overlod")
    assert all(name in str(error.value) for name in WORKLOADS)


def test_steady_load_has_its_rates() -> None:
    load = steady_load({"a": 2.0, "b": 0.5}, 10.0, 30, 40)
    assert [sum(r.tenant == tenant for r in load) for tenant in "ab"] == [20, 5]
    assert [r.t_s for r in load] == sorted(r.t_s for r in load)
    assert {(r.input_tokens, r.output_tokens) for r in load} == {(30, 40)}
