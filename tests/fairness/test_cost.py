"""Cost functions: what is refused says which part offends, and U is really the most that can be in flight."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairness import CostError, CostFunction, Piecewise, Profiled, Weighted, parse_cost

from .world import COSTS

REFUSED = {
    "unknown kind": ({"kind": "cubic"}, "'cubic' is unknown; expected one of weighted, piecewise, profiled"),
    "unknown key": ({"kind": "weighted", "outptu": 2}, "'outptu' is unknown; expected input, output, cached_input"),
    "negative": ({"input": -1}, "input is -1; expected a finite number of at least 0"),
    "not finite": ({"output": float("nan")}, "output is nan"),
    "larger than any float": ({"output": 10**400}, "output is 1000"),
    "not a number": ({"input": "much"}, "input is 'much'"),
    "truth": ({"input": True}, "input is True"),
    "dear cache": ({"input": 1, "cached_input": 3}, "cached_input 3 is dearer than input 1"),
    "text": ("weighted:one", "'one' is not a number"),
    "too many": ("weighted:1,2,0.1,7", "'a fourth price' is unknown; expected input, output, cached_input"),
    "no points": ({"kind": "piecewise", "output": [[0, 0], [1, 1]]}, "input is None; expected points"),
    "one point": ({"kind": "piecewise", "input": [[0, 0]], "output": [[0, 0], [1, 1]]}, "input has 1 points"),
    "not points": ({"kind": "piecewise", "input": [[0, 0], [1]], "output": [[0, 0], [1, 1]]}, "expected points"),
    "late start": ({"kind": "piecewise", "input": [[1, 0], [2, 1]], "output": [[0, 0], [1, 1]]}, "[1.0, 0.0]"),
    "jump": ({"kind": "piecewise", "input": [[0, 0], [8, 1], [8, 2]], "output": [[0, 0], [1, 1]]}, "[8.0, 2.0]"),
    "falls": ({"kind": "piecewise", "input": [[0, 0], [1, 1]], "output": [[0, 3], [4, 7], [9, 6]]}, "[9.0, 6.0]"),
    "goes back": ({"kind": "piecewise", "input": [[0, 0], [5, 1], [3, 2]], "output": [[0, 0], [1, 1]]}, "[3.0, 2.0]"),
    "negative point": ({"kind": "piecewise", "input": [[0, -1], [5, 1]], "output": [[0, 0], [1, 1]]}, "[0.0, -1.0]"),
    "discount": ({"kind": "profiled", "cached": 1.5}, "cached is 1.5; expected a part of a token, 0 to 1"),
    "negative fit": ({"kind": "profiled", "c": -0.1}, "c is -0.1"),
}


@pytest.mark.parametrize(("spec", "message"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_names_what_offends(spec: str | dict[str, object], message: str) -> None:
    with pytest.raises(CostError, match=r"^cost") as refused:
        parse_cost(spec)
    assert message in str(refused.value)


def test_what_configuration_can_say() -> None:
    assert parse_cost("weighted") == Weighted(1, 2)
    assert parse_cost("weighted:1,3") == Weighted(1, 3)
    assert parse_cost("weighted:output=4,cached_input=0.1") == Weighted(1, 4, 0.1)
    assert parse_cost({"kind": "profiled", "d": 0}) == Profiled(d=0)
    points = {"kind": "piecewise", "input": [[0, 0], [10, 10]], "output": [[0, 0], [10, 20], [20, 50]]}
    assert parse_cost(points).service(5, 15) == 5 + 35


def test_a_cached_prefix_is_discounted() -> None:
    assert Weighted(1, 2, 0.25).service(100, 0, cached=80) == 20 + 80 * 0.25
    assert Weighted(1, 2).service(100, 0, cached=80) == 100
    assert Profiled(cached=0.5).service(100, 10, cached=40) == Profiled().service(80, 10)
    line = ((0.0, 0.0), (100.0, 50.0))
    assert Piecewise(line, line, 0.0).service(60, 0, cached=60) == 0


sizes = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 60)), min_size=1, max_size=12)


@pytest.mark.parametrize("cost", COSTS, ids=str)
@given(sizes, st.data())
def test_u_is_not_below_any_set_in_flight(
    cost: CostFunction, flight: list[tuple[int, int]], data: st.DataObject
) -> None:
    """One tenant's rise since its last turn: that turn's input, and output of all that it has in flight."""
    tokens = sum(n_in + n_out for n_in, n_out in flight)
    largest = max(n_in + n_out for n_in, n_out in flight)
    produced_before = [data.draw(st.integers(0, n_out)) for _, n_out in flight[1:]]
    rise = cost.service(*flight[0])
    for (n_in, n_out), before in zip(flight[1:], produced_before, strict=True):
        rise += cost.service(n_in, n_out) - cost.service(n_in, before)
    assert rise <= cost.most_rise(tokens, largest, max(n_in for n_in, _ in flight)) + 1e-6


@pytest.mark.parametrize("cost", COSTS, ids=str)
@given(st.integers(0, 90), st.integers(0, 90), st.integers(0, 90))
def test_service_never_falls_as_tokens_are_added(cost: CostFunction, n_in: int, n_out: int, cached: int) -> None:
    cached = min(cached, n_in)
    here = cost.service(n_in, n_out, cached)
    assert 0 <= here <= cost.service(n_in + 1, n_out, cached) + 1e-9
    assert here <= cost.service(n_in, n_out + 1, cached) + 1e-9
    assert here <= cost.service(n_in, n_out, max(0, cached - 1)) + 1e-9
