"""What leaving an answer costs that nobody saw: the time it ran, by a pace that cheap answers do not move far."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.engines.pace import ASSUMED, TAU_S, TELLING, Pace

tokens = st.integers(0, 10**6)
seconds = st.floats(0, 1e6)
answers = st.lists(st.tuples(tokens, st.integers(1, 8), seconds), max_size=30)


def worker(tokens_per_s: float = 40.0) -> Pace:
    """One that was seen for long: answers of 10 s."""
    pace = Pace()
    for _ in range(500):
        pace.ended(int(tokens_per_s * 10), 1, 10.0)
    return pace


def per_second(pace: Pace) -> float:
    return pace.unseen(1, 1e6, 10**12) / 1e6


@given(answers, st.integers(1, 8), seconds, st.integers(1, 10**5))
def test_leaving_is_never_free_and_never_dearer_than_what_was_reserved(
    seen: list[tuple[int, int, float]], choices: int, ran: float, most: int
) -> None:
    pace = Pace()
    for answer in seen:
        pace.ended(*answer)
    assert 1 <= pace.unseen(choices, ran, most) <= most


@given(answers, st.integers(1, 8), seconds, seconds)
def test_who_stays_longer_pays_no_less(
    seen: list[tuple[int, int, float]], choices: int, ran: float, longer: float
) -> None:
    pace = Pace()
    for answer in seen:
        pace.ended(*answer)
    assert pace.unseen(choices, ran, 4000) <= pace.unseen(choices, ran + longer, 4000)


def test_a_worker_of_which_nothing_is_known_is_assumed_to_work() -> None:
    assert Pace().unseen(1, 10.0, 4000) == 10 * ASSUMED
    assert Pace().unseen(1, 0.08, 4000) == 2, "an honest client that leaves at once does not pay for all it might get"
    assert Pace().unseen(1, 0.01, 4000) == 1
    assert Pace().unseen(4, 10.0, 4000) == 4 * 10 * ASSUMED


@pytest.mark.parametrize("tokens_per_s", [7.0, 40.0, 3000.0])
def test_its_own_pace_is_learned_and_learned_anew(tokens_per_s: float) -> None:
    pace = worker(200.0)
    for _ in range(int(5 * TAU_S / 10)):
        pace.ended(int(10 * tokens_per_s), 1, 10.0)
    assert per_second(pace) == pytest.approx(tokens_per_s, abs=0.01 * abs(tokens_per_s - 200.0) + 1e-3)


def test_the_example() -> None:
    assert worker().unseen(1, 10.0, 2000) == pytest.approx(400, abs=1)
    assert worker().unseen(1, 120.0, 2000) == 2000


def one_token(pace: Pace) -> None:
    """Labels, of which nearly all time is prompt and queue."""
    pace.ended(1, 1, 0.5)


def just_too_short(pace: Pace) -> None:
    pace.ended(TELLING - 1, 1, 100.0)


def uneven(pace: Pace) -> None:
    """Of a hundred choices all but one end at once."""
    pace.ended(4099, 100, 100.0)


@pytest.mark.parametrize("cheap", [one_token, just_too_short, uneven])
def test_cheap_answers_do_not_make_leaving_cheap(cheap: Callable[[Pace], None]) -> None:
    pace = worker()
    for _ in range(1000):
        cheap(pace)
    assert pace.unseen(1, 99.0, 4000) == pytest.approx(99 * 40, abs=1)


def test_the_shortest_that_tell_move_it_slowly_and_not_far() -> None:
    """Half a second before the first token, then 40 a second."""
    pace, paid = worker(), 0
    while paid < 18_000:
        pace.ended(TELLING, 1, 0.5 + TELLING / 40)
        paid += TELLING
    assert 30 + (40 - 30) * 0.3 < per_second(pace) < 40


def test_answers_in_no_time_weigh_no_more_than_their_time() -> None:
    """Ten out of a cache do not make a second cost what a minute costs."""
    pace = worker()
    for produced in (16, TELLING):
        for _ in range(10):
            pace.ended(produced, 1, 0.002)
    assert 40 <= pace.unseen(1, 1.0, 4000) <= 40 + 10 * TELLING / TAU_S + 1


@pytest.mark.parametrize(("produced", "took"), [(0, 1.0), (1000, 0.0), (1000, -1.0)])
def test_what_cannot_be_is_left_out(produced: int, took: float) -> None:
    """A clock that stood still or went back."""
    pace = Pace()
    pace.ended(produced, 1, took)
    assert pace.unseen(1, 10.0, 4000) == 10 * ASSUMED
