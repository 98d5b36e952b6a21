"""The simulator: the engine's clock by hand, conservation on random workloads, and the published experiments."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairness import CostError, parse_cost
from loadgen.judge.results import Comparison, Outcome, RequestRecord, Run
from loadgen.simulator.engine import parse_engine
from loadgen.simulator.simulate import simulate
from loadgen.simulator.simulation import Simulation
from loadgen.workloads.workload import Request, Workload

ENGINE = "prefill_ms_per_token=1,decode_ms=10,decode_ms_per_seq=1,pool_tokens=100,max_running=4"


def simulation(
    requests: Sequence[Request], policy: str = "vtc", engine: str = ENGINE, predict: str = "none"
) -> Checked:
    load = Workload("test", tuple(sorted(requests, key=lambda request: request.t_s)))
    return Checked(
        load, policy, cost=parse_cost("weighted"), weights={}, engine=parse_engine(engine), predict=predict, seed=1
    )


class Checked(Simulation):
    """Recomputes the law's conservation after every step of the engine."""

    def _step(self) -> None:
        super()._step()
        self.scheduler.check_integrity()


def by_place(run: Run) -> dict[int, RequestRecord]:
    """The records by their place in the order of arrival, from 1."""
    return {int(record.id.rpartition("-")[2]): record for record in run.records}


# -- the engine's loop, by hand ------------------------------------------------------------------------------------


def test_one_request_takes_its_prefill_and_its_decode_steps() -> None:
    run = simulation([Request(0.0, "a", 20, 3)]).run()
    record = run.records[0]
    assert (record.dispatched_s, record.first_token_s) == (0.0, pytest.approx(0.020))
    assert record.finish_s == pytest.approx(0.020 + 2 * 0.011)
    assert record.ttft_s == pytest.approx(0.020)


def test_ten_decode_steps_pass_between_two_admissions() -> None:
    run = simulation([Request(0.0, "a", 10, 30), Request(0.005, "b", 10, 2)]).run()
    second = by_place(run)[2]
    assert second.dispatched_s == pytest.approx(0.010 + 10 * 0.011)
    assert second.first_token_s == pytest.approx(0.010 + 10 * 0.011 + 0.010)
    # Both decode together: steps of 12 ms from there on, one of which ends the second request.
    assert second.finish_s == pytest.approx(0.010 + 10 * 0.011 + 0.010 + 0.012)


def test_after_ten_steps_every_step_tries() -> None:
    run = simulation([Request(0.0, "a", 10, 30), Request(0.125, "b", 10, 2)]).run()
    assert by_place(run)[2].dispatched_s == pytest.approx(0.010 + 11 * 0.011)


def test_waiting_heads_are_prefilled_together() -> None:
    run = simulation([Request(0.0, "a", 10, 1), Request(0.0, "b", 20, 1)]).run()
    assert [record.first_token_s for record in run.records] == pytest.approx([0.030, 0.030])


def test_prompts_too_long_to_prefill_together_go_one_after_the_other() -> None:
    """3,072 tokens a prefill: the second of two prompts of 2,000 waits for ten steps of the first."""
    engine = ENGINE.replace("pool_tokens=100", "pool_tokens=10000")
    run = by_place(simulation([Request(0.0, "a", 2_000, 30), Request(0.0, "a", 2_000, 2)], engine=engine).run())
    assert run[1].first_token_s == pytest.approx(2.0)
    assert run[2].dispatched_s == pytest.approx(2.0 + 10 * 0.011)


def test_an_idle_engine_looks_every_ten_milliseconds() -> None:
    run = simulation([Request(0.0, "a", 5, 1), Request(0.5011, "a", 5, 1)]).run()
    assert by_place(run)[2].dispatched_s == pytest.approx(0.505)


def test_a_head_that_does_not_fit_blocks_what_would() -> None:
    """a's second request is next by its counter and too large for what is left; b's small one must not pass it."""
    load = [Request(0.0, "b", 40, 40), Request(0.001, "a", 50, 30), Request(0.002, "b", 1, 1)]
    run = by_place(simulation(load).run())
    dispatched = [run[i].dispatched_s for i in (1, 2, 3)]
    assert dispatched[0] == 0
    assert dispatched[1] == dispatched[2] == run[1].finish_s


# -- what is refused -----------------------------------------------------------------------------------------------


def test_a_request_larger_than_the_pool_is_refused_counted_and_named() -> None:
    run = simulation([Request(0.0, "a", 60, 40), Request(0.0, "a", 60, 39)]).run()
    assert (run.count(Outcome.REJECTED), run.count(Outcome.FINISHED)) == (1, 1)
    refused = run.refused_too_large()
    assert [(record.id, record.input_tokens, record.output_tokens) for record in refused] == [("a-1", 60, 40)]


def test_a_refused_request_uses_up_no_rate_limit() -> None:
    run = simulation([Request(0.0, "a", 99, 9), *[Request(float(i), "a", 1, 1) for i in (1, 2)]], "rpm:1").run()
    assert [by_place(run)[i].reason for i in (1, 2, 3)] == ["too_large", "", "rate_limit"]


def test_rpm_accepts_again_a_minute_later() -> None:
    run = simulation([Request(t, "a", 1, 1) for t in (0.0, 30.0, 60.5)], "rpm:1").run()
    assert [by_place(run)[i].outcome.value for i in (1, 2, 3)] == ["finished", "rejected", "finished"]


def test_a_prediction_larger_than_the_pool_blocks_nothing() -> None:
    """+-50 % of 60 tokens can pass the pool of 100; what is reserved is cut to what it can hold."""
    requests = [Request(0.1 * i, "a", 27, 60) for i in range(20)]
    assert simulation(requests, predict="0.5").run().count(Outcome.FINISHED) == 20


# -- conservation --------------------------------------------------------------------------------------------------

REQUESTS = st.lists(
    st.builds(Request, st.floats(0, 3), st.sampled_from("abc"), st.integers(1, 60), st.integers(1, 60)),
    min_size=1,
    max_size=40,
)


@settings(deadline=None, max_examples=60)
@given(REQUESTS, st.sampled_from(["vtc", "fcfs", "lcf", "rr", "rpm:3"]), st.sampled_from(["none", "ewma", "0.5"]))
def test_every_token_is_accounted_for_and_the_engine_drains(requests: list[Request], policy: str, predict: str) -> None:
    simulated = simulation(requests, policy, predict=predict)
    run = simulated.run()
    served = [record for record in run.records if record.outcome is Outcome.FINISHED]
    assert len(run.records) == len(requests)
    assert run.series.tokens[-1] == sum(record.input_tokens + record.output_tokens for record in served)
    for tenant, received in run.series.service.items():
        due = sum(r.input_tokens + 2 * r.output_tokens for r in served if r.tenant == tenant)
        assert received[-1] == pytest.approx(due)
    snapshot = simulated.scheduler.snapshot()
    assert (snapshot.waiting, snapshot.running) == (0, 0)
    for record in served:
        assert record.dispatched_s is not None
        assert record.arrival_s <= record.dispatched_s < record.first_token_s <= record.finish_s
    refused = {(r.input_tokens, r.output_tokens) for r in run.refused_too_large()}
    assert all(n_in + n_out >= 100 for n_in, n_out in refused)


@settings(deadline=None, max_examples=40)
@given(REQUESTS)
def test_fcfs_serves_in_order_of_arrival(requests: list[Request]) -> None:
    run = simulation(requests, "fcfs").run()
    served = sorted((r for r in run.records if r.dispatched_s is not None), key=lambda r: int(r.id.rpartition("-")[2]))
    moments = [record.dispatched_s for record in served]
    assert moments == sorted(moments)


# -- the contract --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def overload() -> Comparison:
    return simulate("overload", ["vtc", "fcfs"])


def test_the_json_has_exactly_the_keys_of_the_contract(overload: Comparison) -> None:
    found = json.loads(json.dumps(overload.to_json(), allow_nan=False))
    assert set(found) == {"workload", "seed", "bound", "runs"}
    assert (found["workload"], found["seed"], found["bound"]) == ("overload", 0, 40_000)
    assert [run["policy"] for run in found["runs"]] == ["vtc", "fcfs"]
    for run in found["runs"]:
        assert set(run) == {
            "policy",
            "service_gap_max",
            "service_difference",
            "throughput_tokens_per_s",
            "requests",
            "jain",
            "ttft_s",
            "tenants",
        }
        assert set(run["service_difference"]) == {"max", "avg", "var"}
        assert set(run["requests"]) == {"finished", "rejected", "aborted"}
        assert set(run["ttft_s"]) == {"p50", "p90", "p99"}
        assert set(run["tenants"]) == {"client-1", "client-2"}
        for tenant in run["tenants"].values():
            assert set(tenant) == {"service", "share", "finished", "rejected", "ttft_s"}
            assert set(tenant["ttft_s"]) == {"p50", "p90", "p99"}


def test_a_seed_gives_the_same_figures_and_another_seed_gives_others() -> None:
    def found(seed: int) -> object:
        return simulate("poisson-short-long", ["vtc"], predict="0.5", time_scale=20, seed=seed).to_json()["runs"]

    assert found(3) == found(3) != found(4)


def test_the_bound_follows_cost_pool_and_least_weight() -> None:
    few = {"client-1": 2.0, "client-2": 4.0}
    found = simulate("overload", ["fcfs"], weights=few, cost="weighted:3,1", engine="pool_tokens=2000", time_scale=90)
    assert found.bound == 2 * (2_000 + 2 * 2_000) / 2
    assert found.weights == few


def test_progress_rises_to_one_for_each_policy() -> None:
    told: list[tuple[str, float]] = []
    simulate("overload", ["vtc", "fcfs"], time_scale=5, progress=lambda policy, part: told.append((policy, part)))
    for policy in ("vtc", "fcfs"):
        parts = [part for name, part in told if name == policy]
        assert len(parts) > 10
        assert parts == sorted(parts)
        assert parts[-1] == 1.0


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"workload": "overlod"}, "workload 'overlod'"),
        ({"policies": ["vtc", "vct"]}, "policy 'vct' is unknown"),
        ({"policies": []}, "no policy"),
        ({"engine": "b200"}, "engine 'b200'"),
        ({"predict": "2"}, "predict '2'"),
        ({"time_scale": 0.0}, "time scale 0.0"),
        ({"time_scale": float("nan")}, "time scale nan"),
        ({"weights": "absent.yaml"}, "weights absent.yaml"),
    ],
)
def test_what_cannot_be_used_is_named_before_anything_runs(changed: dict[str, object], told: str) -> None:
    arguments: dict[str, object] = {"workload": "overload", "policies": ["vtc"], **changed}
    with pytest.raises(ValueError, match="expected") as error:
        simulate(**arguments)  # type: ignore[arg-type]
    assert told in str(error.value)


def test_a_bad_cost_is_the_laws_error() -> None:
    with pytest.raises(CostError):
        simulate("overload", ["vtc"], cost="weigthed")


# -- the published experiments -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def late_burst() -> dict[str, Run]:
    return {run.policy: run for run in simulate("late-burst", ["vtc", "fcfs", "lcf"]).runs}


def test_late_burst_under_vtc_stays_far_below_the_bound(late_burst: dict[str, Run]) -> None:
    vtc = late_burst["vtc"]
    assert vtc.service_gap_max == pytest.approx(14_000, rel=0.1)
    assert max(vtc.series.gap) < 40_000  # during the drain too
    assert 0.49 <= vtc.series.shares(300, 600)["B"] <= 0.52


def test_late_burst_breaks_the_bound_without_the_law(late_burst: dict[str, Run]) -> None:
    """The controls: the same measure must be able to fail."""
    assert late_burst["fcfs"].service_gap_max == pytest.approx(138_000, rel=0.05)
    assert late_burst["fcfs"].series.shares(300, 600)["B"] == pytest.approx(0.675, abs=0.01)
    assert late_burst["lcf"].service_gap_max > 200_000
    assert late_burst["lcf"].series.shares(310, 420)["B"] > 0.98


def test_overload_is_shared_evenly_at_no_cost(overload: Comparison) -> None:
    vtc, fcfs = overload.runs
    assert vtc.tenants["client-1"].share == pytest.approx(0.5, abs=0.01)
    assert fcfs.tenants["client-1"].share == pytest.approx(1 / 3, abs=0.01)
    assert vtc.throughput_tokens_per_s >= 0.99 * fcfs.throughput_tokens_per_s
    assert vtc.service_gap_max < overload.bound < fcfs.service_gap_max


def test_a_weights_file_sets_the_shares(tmp_path: Path) -> None:
    """Two to one, against the offered load of one to two."""
    path = tmp_path / "weights.csv"
    path.write_text("tenant,weight\nclient-1,2\nclient-2,1\n")
    found = simulate("overload", ["vtc"], weights=path)
    assert found.runs[0].tenants["client-1"].share == pytest.approx(2 / 3, abs=0.02)
    assert found.runs[0].service_gap_max < found.bound == 40_000


def test_overload_weighted_is_shared_by_weight() -> None:
    vtc, fcfs = simulate("overload-weighted", ["vtc", "fcfs"]).runs
    for i in (1, 2, 3, 4):
        assert vtc.tenants[f"client-{i}"].share == pytest.approx(i / 10, abs=0.02)
    assert fcfs.tenants["client-1"].share > 0.15  # offered 0.8 of 4.4


def test_prediction_narrows_the_difference_by_ten() -> None:
    """OSDI'24 table 5: 104 without, 12.5 at +-50 %, 0.5 with the oracle (bands: DESIGN section 8)."""

    def average(predict: str) -> float:
        found = simulate("overload", ["vtc"], predict=predict)
        assert max(found.runs[0].series.gap) < found.bound
        return found.runs[0].service_difference.avg

    assert average("none") == pytest.approx(104, rel=0.2)
    assert 5 < average("0.5") < 20
    assert average("oracle") < 2
    assert average("ewma") < 5
