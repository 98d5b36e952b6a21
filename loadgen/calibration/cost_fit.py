"""Cost functions fitted to measured times: service is the time a request takes alone on the engine, in milliseconds.

Both forms are linear in what is sought, and nothing of it may be negative (the law wants costs that never fall), so
each is a non-negative least squares problem. Rows are divided by the measured time: the relative error is what is
minimised, so that short requests count as much as long ones. The form is the one of OSDI'24, section 5.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fairness import CostFunction, Piecewise, Profiled
from loadgen.errors import LoadgenError

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


class Sample(NamedTuple):
    """A request alone: its tokens, and the seconds until its last token was seen."""

    input_tokens: int
    output_tokens: int
    seconds: float


class Point(NamedTuple):
    """A sample beside its fit, in milliseconds; `error` is relative to what was measured."""

    input_tokens: int
    output_tokens: int
    measured_ms: float
    fitted_ms: float
    error: float


class Fit(NamedTuple):
    cost: CostFunction
    settings: dict[str, object]  # what `fairness.parse_cost` and the gateway's configuration read
    points: list[Point]

    @property
    def mean_error(self) -> float:
        return float(np.mean([abs(point.error) for point in self.points]))

    @property
    def largest_error(self) -> float:
        return max(abs(point.error) for point in self.points)


def fit_profiled(samples: Sequence[Sample]) -> Fit:
    """a n_in + b n_out + c n_in n_out + d n_out^2 + e. Raises LoadgenError for fewer than five different points."""
    n_in, n_out, _ = _columns(samples, 5)
    matrix = np.stack([n_in, n_out, n_in * n_out, n_out**2, np.ones_like(n_in)], axis=1)
    values = _solve(matrix, samples)
    settings: dict[str, object] = {"kind": "profiled", **dict(zip("abcde", map(_short, values), strict=True))}
    return _fit(Profiled(*map(_short, values)), settings, samples)


def fit_piecewise(samples: Sequence[Sample], knots: int = 5) -> Fit:
    """f(n_in) + g(n_out), both continuous and rising, with corners at up to `knots` of the measured token counts.

    Raises LoadgenError for fewer than five different points.
    """
    n_in, n_out, _ = _columns(samples, 5)
    in_knots, out_knots = _knots(n_in, knots), _knots(n_out, knots)
    columns = [np.ones_like(n_in), *_ramps(n_in, in_knots), *_ramps(n_out, out_knots)]
    values = _solve(np.stack(columns, axis=1), samples)
    rises = np.split(values[1:], [len(in_knots) - 1])
    points_in = _points(in_knots, values[0], rises[0])
    points_out = _points(out_knots, 0.0, rises[1])
    settings: dict[str, object] = {"kind": "piecewise", "input": _lists(points_in), "output": _lists(points_out)}
    return _fit(Piecewise(points_in, points_out), settings, samples)


def nonnegative_least_squares(matrix: Array, target: Array) -> Array:
    """The x >= 0 that minimises |matrix x - target| (Lawson and Hanson, Solving Least Squares Problems, 1974,
    chapter 23). `matrix` is (rows, columns), `target` (rows,)."""
    columns = matrix.shape[1]
    solution = np.zeros(columns)
    free = np.zeros(columns, dtype=bool)
    for _ in range(30 * columns):
        gradient = matrix.T @ (target - matrix @ solution)
        gradient[free] = -np.inf
        best = int(np.argmax(gradient))
        if gradient[best] <= 1e-10 * np.abs(target).max():
            break
        free[best] = True
        solution, free = _inner(matrix, target, solution, free)
    return solution


# -- inside --------------------------------------------------------------------------------------------------------


def _inner(matrix: Array, target: Array, solution: Array, free: Mask) -> tuple[Array, Mask]:
    """Least squares over the free columns, which are fixed at 0 again where they would turn negative."""
    while True:
        trial = np.zeros_like(solution)
        trial[free] = np.linalg.lstsq(matrix[:, free], target, rcond=None)[0]
        negative = free & (trial <= 0)
        if not negative.any():
            return trial, free
        steps = solution[negative] / (solution[negative] - trial[negative])
        solution = solution + steps.min() * (trial - solution)
        free = free & (solution > 1e-14 * max(1.0, float(np.abs(solution).max())))


def _columns(samples: Sequence[Sample], least: int) -> tuple[Array, Array, Array]:
    different = {(sample.input_tokens, sample.output_tokens) for sample in samples}
    if len(different) < least:
        raise LoadgenError(f"{len(different)} different points were measured; a fit needs at least {least}")
    if any(sample.seconds <= 0 for sample in samples):
        raise LoadgenError("a measured time is not above 0 seconds")
    table = np.asarray(samples, dtype=np.float64)
    return table[:, 0], table[:, 1], table[:, 2]


def _solve(matrix: Array, samples: Sequence[Sample]) -> Array:
    """Relative errors, and columns of equal length: what is measured in tokens squared weighs as much as a constant."""
    measured = np.array([1000 * sample.seconds for sample in samples])
    rows = matrix / measured[:, None]
    lengths = np.linalg.norm(rows, axis=0)
    lengths[lengths == 0] = 1.0
    values: Array = nonnegative_least_squares(rows / lengths, np.ones(len(samples))) / lengths
    return values


def _knots(tokens: Array, most: int) -> Array:
    """0 and quantiles of the measured token counts, the largest among them."""
    different = np.unique(tokens[tokens > 0])
    chosen = np.quantile(different, np.linspace(0, 1, most), method="nearest")
    return np.unique(np.concatenate([[0.0], chosen]))


def _ramps(tokens: Array, knots: Array) -> list[Array]:
    """For each segment, the part of it that lies below `tokens`; the last goes on beyond its end."""
    parts = [(tokens - low) / (high - low) for low, high in pairwise(knots)]
    return [np.clip(part, 0, None if i == len(parts) - 1 else 1) for i, part in enumerate(parts)]


def _points(knots: Array, first: float, rises: Array) -> tuple[tuple[float, float], ...]:
    heights = np.concatenate([[first], first + np.cumsum(rises)])
    return tuple((float(x), _short(y)) for x, y in zip(knots, heights, strict=True))


def _lists(points: tuple[tuple[float, float], ...]) -> list[list[float]]:
    return [list(point) for point in points]


def _short(value: float) -> float:
    """Six significant digits: no measurement has more, and configuration is read by people."""
    return float(f"{value:.6g}")


def _fit(cost: CostFunction, settings: dict[str, object], samples: Sequence[Sample]) -> Fit:
    points = []
    for n_in, n_out, seconds in samples:
        fitted, measured = cost.service(n_in, n_out), 1000 * seconds
        points.append(Point(n_in, n_out, measured, fitted, fitted / measured - 1))
    return Fit(cost, settings, points)
