"""The law under any interleaving of operations: `World.check` runs after every step."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from .world import COSTS, KINDS, PREDICTORS, TENANTS, UNUSUAL, Setting, World

settings = st.tuples(
    st.sampled_from(COSTS),
    st.lists(st.tuples(st.integers(1, 12), st.integers(20, 120)), min_size=1, max_size=3).map(tuple),
    st.tuples(*[st.sampled_from((1.0, 0.5, 2.0, 3.0))] * len(TENANTS)),
    st.sampled_from(PREDICTORS),
).map(lambda parts: Setting(*parts))


def operations(kinds: tuple[str, ...]) -> st.SearchStrategy[list[tuple[str, int, int]]]:
    number = st.integers(0, 999)
    return st.lists(st.tuples(st.sampled_from(kinds), number, number), min_size=5, max_size=60)


@given(settings, operations(KINDS))
def test_every_decision_and_counter_is_the_reference_models(setting: Setting, ops: list[tuple[str, int, int]]) -> None:
    World(setting).play(ops)


@given(settings, operations((*KINDS, *UNUSUAL)))
def test_it_holds_while_weights_and_workers_change(setting: Setting, ops: list[tuple[str, int, int]]) -> None:
    World(setting).play(ops)
