"""One fair share over several gateways, live: real processes, judged by the engine's log. Small rooms, wide margins."""

import subprocess
import sys
from dataclasses import replace

import pytest

from fairgate.errors import ProcessError
from fairgate.topology.fleet import FleetPlan
from fairgate.trials.replicas import (
    BoundPlan,
    SharesPlan,
    measure_bound,
    measure_shares,
    room_kept,
    skewed_entries,
)
from loadgen.judge.measure import steady_load
from loadgen.judge.service_log import EngineLog, EngineRecord
from loadgen.mock.engine import Peaks
from loadgen.workloads.catalogue import Workload

SECONDS = 4.0


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return measure_shares(SharesPlan(2, SECONDS, tolerance=0.1), tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="module")
def control(tmp_path_factory):
    plan = SharesPlan(2, SECONDS, shared=False, tolerance=0.03)
    return measure_shares(plan, tmp_path_factory.mktemp("control"))


def missed(found):
    return [promise.text for promise in found.promises() if promise.kept is False]


def test_two_gateways_give_the_shares_of_one_however_tenants_enter(shared):
    assert shared.off < 0.05
    assert missed(shared) == []
    assert shared.seen.meaningful, "the load was too light for shares to mean anything"


def test_state_per_replica_misses_them(control):
    """The light tenant, with 4 of 5 of the weight, gets no more than 4 of 5 of the one gateway it enters through."""
    assert control.off > 0.15
    assert missed(control) == []


def test_the_judge_tells_one_from_the_other(shared, control):
    """What holds as a shared queue is no control, and what serves as a control holds nothing."""
    assert missed(replace(shared, plan=replace(shared.plan, shared=False)))
    assert missed(replace(control, plan=replace(control.plan, shared=True)))


# One client asks for two thirds of what comes, of whom all others together could have five sixths.
RATES = {"greedy": 60.0, **{f"client-{n}": 6.0 for n in range(5)}}
SMALL = BoundPlan(
    Workload("uneven", steady_load(RATES, 5.0, 8, 8)), "vtc", 4, engines=1, slots=4, kv_tokens=64, step_s=0.02
)


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(SMALL, id="vtc"),
        pytest.param(replace(SMALL, predict="none", flush_s=0.9), id="vtc, charges later than requests last"),
        pytest.param(replace(SMALL, policy="fcfs"), id="fcfs breaks it"),
    ],
)
def test_the_bound_holds_over_four_gateways(plan, tmp_path):
    """Room is released in the step that settles what a request was charged, so late charges add nothing."""
    found = measure_bound(plan, tmp_path)
    assert missed(found) == []
    assert (found.run.service_gap_max > found.bound) == (plan.policy == "fcfs")
    other = replace(found, plan=replace(plan, policy="vtc" if plan.policy == "fcfs" else "fcfs"))
    assert missed(other), "the judge would have believed the opposite too"


def test_a_request_larger_than_an_engine_is_named_before_anything_starts(tmp_path):
    large = Workload("large", steady_load({"a": 1.0}, 1.0, 60, 60))
    with pytest.raises(ProcessError, match="large has 120 tokens; expected at most 64"):
        measure_bound(replace(SMALL, workload=large), tmp_path)


def test_an_engine_that_got_too_much_is_a_broken_promise(tmp_path):
    for peaks, kept in ((Peaks(4, 4, 60, 64), True), (Peaks(4, 5, 60, 64), False), (Peaks(4, 4, 60, 65), False)):
        engine = EngineLog(slots=4, kv_tokens=64, starts=1, peaks=peaks)
        assert [promise.kept for promise in room_kept(EngineRecord({tmp_path: engine}, ()))] == [kept]


def test_clients_enter_unevenly():
    doors = [door for (door,) in skewed_entries([f"client-{n:02}" for n in range(16)], 4).values()]
    assert [doors.count(n) for n in range(4)] == [8, 4, 2, 2]


def test_a_room_that_cannot_be_split_is_refused(tmp_path):
    with pytest.raises(ProcessError, match="3 slots cannot be split over 4 gateways"):
        FleetPlan(tmp_path, {"a": 1.0}, 4, slots=3, shared=False).gateway_config(0, 1, ["http://127.0.0.1:1"], None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["shares", "--replicas", "two"], "--replicas two: expected whole numbers of at least 1"),
        (["shares", "--weights", "4"], "--weights 4: expected two numbers above 0"),
        (["bound", "--workload", "nothing.csv"], "'nothing.csv' is neither a name nor a file"),
        (["bound", "--policy", "best"], "policy 'best'"),
    ],
)
def test_mistakes_are_one_message(options, said):
    done = subprocess.run([sys.executable, "-m", "fairgate", "replicas", *options], capture_output=True, text=True)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
