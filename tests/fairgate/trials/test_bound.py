"""The bound on the gap in service over several gateways, live: real processes, judged by the engine's log."""

from dataclasses import replace

import pytest

from fairgate.errors import ProcessError
from fairgate.topology.plan import MockEngine
from fairgate.trials.bound import BoundPlan, measure_bound, skewed_entries
from loadgen.workloads.arrivals import steady_load
from loadgen.workloads.workload import Workload


def missed(found):
    return [promise.text for promise in found.promises() if promise.kept is False]


# One client asks for two thirds of what comes, of whom all others together could have five sixths.
RATES = {"greedy": 60.0, **{f"client-{n}": 6.0 for n in range(5)}}
SMALL = BoundPlan(
    Workload("uneven", steady_load(RATES, 5.0, 8, 8)), "vtc", 4, engines=1, engine=MockEngine(4, 64, 0.02)
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


def test_clients_enter_unevenly():
    doors = [door for (door,) in skewed_entries([f"client-{n:02}" for n in range(16)], 4).values()]
    assert [doors.count(n) for n in range(4)] == [8, 4, 2, 2]
