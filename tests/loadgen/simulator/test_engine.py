"""The engine model: its times, its presets, and the fit rule against a step-by-step count of the pool."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairness import LawError, Ticket
from loadgen.errors import LoadgenError
from loadgen.simulator.engine import ENGINES, EngineConfig, EngineRoom, fits_pool, parse_engine
from loadgen.simulator.simulate import simulate

SIZES = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 30)), min_size=1, max_size=8)


def most_held(requests: list[tuple[int, int]]) -> int:
    """The most tokens in the pool if each request gains one token a step and gives all back after its last."""
    steps = range(max(left for _, left in requests) + 1)
    return max(sum(so_far + step for so_far, left in requests if left >= step) for step in steps)


@given(SIZES, st.integers(1, 300))
def test_what_fits_is_what_never_fills_the_pool(requests: list[tuple[int, int]], pool: int) -> None:
    assert fits_pool(requests, pool) == (most_held(requests) < pool)


def test_room_given_back_is_used_again() -> None:
    """What runs may add up to more than the pool: 98 and 49 tokens fit 100, as the second ends in time."""
    assert fits_pool([(1, 97), (1, 48)], 100)
    assert not fits_pool([(1, 97), (1, 49)], 100)


def room(pool: int = 10_000, running: int = 1_000) -> tuple[EngineRoom, dict[Ticket, int]]:
    output_tokens: dict[Ticket, int] = {}
    config = parse_engine(f"pool_tokens={pool},max_running={running}")
    return EngineRoom(config, output_tokens), output_tokens


def ticket(output_tokens: dict[Ticket, int], n_in: int, n_out: int, predicted: int = 0) -> Ticket:
    new = Ticket(f"t{len(output_tokens)}", "a", n_in, 10_000)
    new.predicted = predicted
    output_tokens[new] = n_out
    return new


def test_a_prefill_takes_its_minibatch_and_a_longer_prompt_goes_alone() -> None:
    engine, outputs = room(pool=18_600)  # a sixth of it is 3,100
    assert engine.place(ticket(outputs, 2_000, 1))
    assert engine.place(ticket(outputs, 1_100, 1))
    assert engine.place(ticket(outputs, 1, 1)) is None
    engine.begin_minibatch()
    assert engine.place(ticket(outputs, 5_000, 1))
    assert engine.place(ticket(outputs, 1, 1)) is None


def test_no_more_run_than_may_run() -> None:
    engine, outputs = room(running=2)
    first = ticket(outputs, 1, 1)
    assert engine.place(first)
    assert engine.place(ticket(outputs, 1, 1))
    late = ticket(outputs, 1, 1)
    assert engine.place(late) is None
    engine.release(first)
    assert engine.place(late)


def test_what_is_predicted_beyond_the_truth_is_reserved() -> None:
    engine, outputs = room(pool=100)
    assert engine.place(ticket(outputs, 10, 10, predicted=60))
    assert engine.place(ticket(outputs, 10, 45)) is None
    again, outputs = room(pool=100)
    assert again.place(ticket(outputs, 10, 10))
    assert again.place(ticket(outputs, 10, 45))


def test_integrity_is_what_runs() -> None:
    engine, outputs = room()
    held = ticket(outputs, 1, 1)
    engine.place(held)
    engine.check_integrity([held])
    with pytest.raises(LawError):
        engine.check_integrity([])


def test_the_a10g_takes_the_times_of_the_fit() -> None:
    engine = ENGINES["a10g-7b"]
    assert engine.prefill_s(1000) == pytest.approx(0.213)
    assert engine.decode_s(30) == pytest.approx((33.5 + 0.19 * 30) * 1.12 / 1000)
    assert engine.minibatch_tokens == 3072
    assert engine.too_large(5_000, 5_000)
    assert not engine.too_large(5_000, 4_999)


def test_the_a100_takes_as_long_as_the_recorded_run() -> None:
    """Section 5.4, pool of 35,000, requests of 768 / 768 tokens: 2,517 s to the end of the drain."""
    run = simulate("overload-35000-768", ["vtc"], engine="a100-13b").runs[0]
    assert run.drained_s == pytest.approx(2517, rel=0.03)
    assert ENGINES["a100-13b-65k"].pool_tokens == 65_000


def test_engines_are_named_or_spelled_out() -> None:
    assert parse_engine("a100-13b") == ENGINES["a100-13b"]
    assert parse_engine("a100-13b,pool_tokens=65000").pool_tokens == 65_000
    spelled = "prefill_ms_per_token=0.1,decode_ms=20,decode_ms_per_seq=0.5,pool_tokens=5000,max_running=8"
    assert parse_engine(spelled) == EngineConfig(0.1, 20.0, 0.5, 5_000, 8)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("h100", ["'h100' is unknown", "a10g-7b", "pool_tokens"]),
        ("pool=5", ["'pool=5' is unknown", "prefill_ms_per_token"]),
        ("a10g-7b,a100-13b", ["'a100-13b' is unknown"]),
        ("pool_tokens=2.5", ["pool_tokens is '2.5'", "whole number"]),
        ("decode_ms=fast", ["decode_ms is 'fast'", "expected a number"]),
        ("decode_ms=-1", ["decode_ms is -1.0", "at least 0"]),
        ("decode_ms=nan", ["decode_ms is nan"]),
        ("decode_ms=0,decode_ms_per_seq=0", ["must take time"]),
        ("pool_tokens=0", ["pool_tokens is 0"]),
        ("max_running=0", ["max_running is 0", "at least 1"]),
        ("", ["'' is unknown"]),
    ],
)
def test_an_engine_that_cannot_be_is_named(spec: str, words: list[str]) -> None:
    with pytest.raises(LoadgenError) as error:
        parse_engine(spec)
    assert all(word in str(error.value) for word in words)
