"""Predictors that know the answer."""

from __future__ import annotations

import pytest

from fairness import Ewma, NoPrediction, Ticket
from loadgen.errors import LoadgenError
from loadgen.simulator.predict import Oracle, parse_predict

OUTPUTS = {Ticket(f"t{i}", "a", 10, 10_000): 200 for i in range(400)}


def test_the_oracle_is_right() -> None:
    oracle = parse_predict("oracle", OUTPUTS, 3)
    assert {oracle.predict(ticket) for ticket in OUTPUTS} == {200}


def test_noise_is_uniform_within_its_width() -> None:
    noisy = parse_predict("0.5", OUTPUTS, 3)
    drawn = [noisy.predict(ticket) for ticket in OUTPUTS]
    assert 100 <= min(drawn) < 105
    assert 295 < max(drawn) <= 300
    assert sum(drawn) / len(drawn) == pytest.approx(200, abs=10)


def test_a_head_that_is_tried_again_is_predicted_the_same() -> None:
    noisy = Oracle(OUTPUTS, 0.5, seed=3)
    ticket = next(iter(OUTPUTS))
    assert len({noisy.predict(ticket) for _ in range(20)}) == 1


def test_seeds_draw_differently() -> None:
    one, two = (Oracle(OUTPUTS, 0.5, seed) for seed in (1, 2))
    assert [one.predict(ticket) for ticket in OUTPUTS] != [two.predict(ticket) for ticket in OUTPUTS]


def test_the_other_two_are_those_of_the_law() -> None:
    assert isinstance(parse_predict("none", {}, 0), NoPrediction)
    assert isinstance(parse_predict("ewma", {}, 0), Ewma)


@pytest.mark.parametrize("spec", ["", "orcale", "-0.1", "1.5", "nan", "inf"])
def test_an_unknown_form_is_told_the_forms(spec: str) -> None:
    with pytest.raises(LoadgenError, match="expected none, ewma, oracle, or a noise between 0 and 1"):
        parse_predict(spec, {}, 0)
