"""Fits find what made the points, never fall, and are read back by the gateway's parser."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fairness import Piecewise, Profiled, parse_cost
from loadgen.calibration.calibrate import Calibration, markdown, samples_of, to_yaml
from loadgen.calibration.cost_fit import Sample, fit_piecewise, fit_profiled, nonnegative_least_squares
from loadgen.client.record import Exchange
from loadgen.errors import LoadgenError

GRID = list(product((16, 64, 128, 256, 512), (1, 2, 4, 8, 16, 32, 64)))


def measured(cost: Profiled | Piecewise, noise: float = 0.0) -> list[Sample]:
    chance = np.random.default_rng(7)
    return [Sample(i, o, cost.service(i, o) / 1000 * (1 + noise * chance.uniform(-1, 1))) for i, o in GRID]


def test_the_profile_that_made_the_points_is_found() -> None:
    truth = Profiled(0.2, 35.0, 0.0004, 0.002, 12.0)
    fit = fit_profiled(measured(truth))
    assert isinstance(fit.cost, Profiled)
    assert [fit.cost.a, fit.cost.b, fit.cost.c, fit.cost.d, fit.cost.e] == pytest.approx(
        [truth.a, truth.b, truth.c, truth.d, truth.e], rel=1e-3
    )
    assert fit.largest_error < 1e-4


def test_noise_costs_no_more_than_itself() -> None:
    assert fit_profiled(measured(Profiled(0.2, 35.0, 0.0004, 0.002, 12.0), 0.05)).mean_error < 0.05


def test_corners_that_made_the_points_are_found() -> None:
    truth = Piecewise(((0, 5), (64, 20), (256, 40), (512, 120)), ((0, 0), (8, 200), (64, 2000)))
    fit = fit_piecewise(measured(truth), knots=7)
    assert fit.largest_error < 1e-4
    assert fit.cost.service(600, 70) == pytest.approx(truth.service(600, 70), rel=1e-3)


def test_a_form_that_does_not_suit_says_so_by_its_error() -> None:
    """Control: a product of input and output has no place in the piecewise form."""
    samples = measured(Profiled(0.2, 1.0, 0.05, 0.0, 1.0))
    assert fit_profiled(samples).largest_error < 1e-4
    assert fit_piecewise(samples).largest_error > 0.2


times = st.lists(st.floats(0.001, 10), min_size=len(GRID), max_size=len(GRID))


@settings(max_examples=30, deadline=None)
@given(times)
def test_whatever_was_measured_the_fit_is_a_valid_cost_and_is_read_back(seconds: list[float]) -> None:
    samples = [Sample(i, o, s) for (i, o), s in zip(GRID, seconds, strict=True)]
    for fit in (fit_profiled(samples), fit_piecewise(samples)):
        assert parse_cost(yaml.safe_load(yaml.safe_dump(fit.settings))) == fit.cost


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(4, 8))
def test_nonnegative_least_squares_is_the_best_of_all_choices(seed: int, columns: int, rows: int) -> None:
    chance = np.random.default_rng(seed)
    matrix, target = chance.normal(size=(rows, columns)), chance.normal(size=rows)
    best = float(np.linalg.norm(target))
    for size in range(1, columns + 1):
        for chosen in combinations(range(columns), size):
            part = np.linalg.lstsq(matrix[:, chosen], target, rcond=None)[0]
            if (part >= 0).all():
                best = min(best, float(np.linalg.norm(matrix[:, chosen] @ part - target)))
    solution = nonnegative_least_squares(matrix, target)
    assert (solution >= 0).all()
    assert float(np.linalg.norm(matrix @ solution - target)) == pytest.approx(best, abs=1e-8)


def test_too_few_points_are_refused() -> None:
    with pytest.raises(LoadgenError, match="1 different points were measured; a fit needs at least 5"):
        fit_profiled([Sample(1, 1, 0.1)] * 9)
    with pytest.raises(LoadgenError, match="not above 0"):
        fit_piecewise([Sample(i, 1, 0.0) for i in range(1, 7)])


def test_one_stream_tells_the_time_of_every_length() -> None:
    exchange = Exchange("t", "m", 0.0, 9, 6, 0.5)
    exchange.input_tokens = 9
    exchange.counts, exchange.times_s = [1, 2, 4, 5, 6], [1.0, 1.1, 1.3, 1.4, 1.5]
    assert samples_of(exchange) == [(9, 1, 0.5), (9, 2, 1.1 - 0.5), (9, 4, 1.3 - 0.5), (9, 6, 1.0)]


def test_the_report_and_the_yaml_show_the_fit() -> None:
    samples = measured(Profiled(0.2, 35.0, 0.0004, 0.002, 12.0), 0.1)
    fits = {"profiled": fit_profiled(samples), "piecewise": fit_piecewise(samples)}
    calibration = Calibration("tiny", samples, fits)
    text = to_yaml(calibration, "profiled")
    assert parse_cost(yaml.safe_load(text)["cost"]) == fits["profiled"].cost
    assert f"mean {fits['profiled'].mean_error:.1%}" in text
    table = markdown(calibration).splitlines()
    assert len(table) == len(samples) + 3
    point = fits["piecewise"].points[0]
    assert f"{point.fitted_ms:.1f} ({point.error:+.1%})" in table[2]
