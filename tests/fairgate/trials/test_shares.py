"""One fair share over several gateways, live: real processes, judged by the engine's log. Small rooms, wide margins."""

from dataclasses import replace

import pytest

from fairgate.trials.shares import SharesPlan, measure_shares

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
