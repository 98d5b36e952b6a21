"""The law under any interleaving of operations: `World.check` runs after every step."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairness import Piecewise, Profiled, Weighted, parse_policy

from .reference import Reference
from .world import COSTS, KINDS, PREDICTORS, TENANTS, TREE, UNUSUAL, Setting, World

prices = st.integers(0, 400).map(lambda hundredths: hundredths / 100)
rises = st.lists(st.tuples(st.integers(1, 30), prices), min_size=1, max_size=3)


def _points(first: float, steps: list[tuple[int, float]]) -> tuple[tuple[float, float], ...]:
    points = [(0.0, first)]
    for tokens, service in steps:
        points.append((points[-1][0] + tokens, points[-1][1] + service * tokens))
    return tuple(points)


lines = st.builds(_points, prices, rises)
costs = st.one_of(
    st.sampled_from(COSTS),
    st.builds(Weighted, prices, prices),
    st.builds(Profiled, prices, prices, st.just(0.03), st.just(0.01), prices, st.sampled_from((0.0, 0.5, 1.0))),
    st.builds(Piecewise, lines, lines, st.sampled_from((0.0, 0.5, 1.0))),
)
settings = st.tuples(
    costs,
    st.lists(st.tuples(st.integers(1, 12), st.integers(20, 120)), min_size=1, max_size=3).map(tuple),
    st.tuples(*[st.sampled_from((1.0, 0.5, 2.0, 3.0))] * len(TENANTS)),
    st.sampled_from(PREDICTORS),
).map(lambda parts: Setting(*parts))


def operations(kinds: tuple[str, ...]) -> st.SearchStrategy[list[tuple[str, int, int]]]:
    number = st.integers(0, 999)
    return st.lists(st.tuples(st.sampled_from(kinds), number, number), min_size=25, max_size=120)


@given(settings, operations(KINDS))
def test_every_decision_and_counter_is_the_reference_models(setting: Setting, ops: list[tuple[str, int, int]]) -> None:
    World(setting).play(ops)


@given(settings, operations((*KINDS, *UNUSUAL)))
def test_it_holds_while_weights_and_workers_change(setting: Setting, ops: list[tuple[str, int, int]]) -> None:
    World(setting).play(ops)


@given(settings, operations((*KINDS, *UNUSUAL)))
def test_the_same_holds_at_every_level_of_a_tree(setting: Setting, ops: list[tuple[str, int, int]]) -> None:
    World(setting._replace(tenants=TREE)).play(ops)


class OnePerTurn:
    def service(self, n_in: int, n_out: int, cached: int = 0) -> float:
        return 1.0

    def most_rise(self, tokens: int, largest: int, longest_input: int) -> float:
        return 1.0


POLICIES = {
    "fcfs": partial(Reference, quantum=float("inf")),
    "lcf": partial(Reference, lifts=False),
    "drr:40": partial(Reference, quantum=40_000),
    "rr": lambda cost, weights: Reference(OnePerTurn(), weights),
}


@pytest.mark.parametrize("policy", POLICIES)
@given(settings, operations(KINDS))
def test_every_policy_is_the_law_with_one_difference(
    policy: str, setting: Setting, ops: list[tuple[str, int, int]]
) -> None:
    setting = setting._replace(policy=partial(parse_policy, policy), reference=POLICIES[policy], bounded=False)
    World(setting).play(ops)
