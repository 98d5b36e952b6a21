"""Service is booked when it happened, whenever the scheduler was told of it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairness import Profiled, Weighted, parse_cost
from loadgen.simulator.engine import parse_engine
from loadgen.simulator.meter import StepMeter
from loadgen.simulator.simulation import Simulation
from loadgen.workloads.workload import Request, Workload


def events(meter: StepMeter) -> list[tuple[float, str, float, int]]:
    log = meter.events()
    return sorted(zip(log.times_s, log.tenants, log.service, log.tokens, strict=True))


def test_the_prefill_brings_the_input_and_a_token_and_every_step_one_more() -> None:
    meter = StepMeter(Weighted())
    for time_s in (1.0, 2.0, 3.0, 4.0):
        meter.step(time_s)
    meter.served("a", 10, 3, first_token_s=1.5, first_step=1)
    assert events(meter) == [(1.5, "a", 12, 11), (2.0, "a", 2, 1), (3.0, "a", 2, 1)]


def test_requests_of_one_tenant_add_up_step_by_step() -> None:
    meter = StepMeter(Weighted())
    for time_s in (1.0, 2.0):
        meter.step(time_s)
    meter.served("a", 1, 2, first_token_s=1.5, first_step=1)
    meter.served("a", 1, 3, first_token_s=0.5, first_step=0)
    meter.served("b", 5, 1, first_token_s=0.5, first_step=0)
    assert events(meter) == [(0.5, "a", 3, 2), (0.5, "b", 7, 6), (1.0, "a", 2, 1), (1.5, "a", 3, 2), (2.0, "a", 4, 2)]


def test_a_token_is_worth_what_the_cost_function_adds_for_it() -> None:
    cost = Profiled()
    meter = StepMeter(cost)
    meter.step(1.0)
    meter.served("a", 10, 2, first_token_s=0.5, first_step=0)
    assert [service for _, _, service, _ in events(meter)] == pytest.approx(
        [cost.service(10, 1), cost.service(10, 2) - cost.service(10, 1)]
    )


class Eager(Simulation):
    """Tells the scheduler of every token in the step that produced it."""

    def _decode(self) -> None:
        super()._decode()
        self._report()


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.builds(Request, st.floats(0, 3), st.sampled_from("abc"), st.integers(1, 60), st.integers(1, 60)),
        min_size=1,
        max_size=40,
    ),
    st.sampled_from(["vtc", "lcf"]),
)
def test_charging_before_decisions_only_changes_no_decision(requests: list[Request], policy: str) -> None:
    load = Workload("test", tuple(sorted(requests, key=lambda request: request.t_s)))
    engine = parse_engine("prefill_ms_per_token=1,decode_ms=10,decode_ms_per_seq=1,pool_tokens=100,max_running=4")
    runs = [
        kind(load, policy, cost=parse_cost("weighted"), weights={}, engine=engine).run() for kind in (Eager, Simulation)
    ]
    assert runs[0].records == runs[1].records
    assert runs[0].series == runs[1].series
