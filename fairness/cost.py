"""Cost functions: the service h(n_in, n_out) that a request receives, as validated configuration.

    weighted    h = input * (n_in - cached) + cached_input * cached + output * n_out     (OSDI'24, section 3.1)
    piecewise   h = f(n_in') + g(n_out), f and g continuous, monotone, linear between given points
    profiled    h = a n_in' + b n_out + c n_in' n_out + d n_out^2 + e                    (OSDI'24, section 5.2)

n_in' counts a token found in the prefix cache as `cached` of a token (piecewise, profiled; default 1: no discount).
h never falls as n_in or n_out rises: the scheduler charges differences of it.

`most_rise` is U, the part of the bound that depends on the cost: the most one tenant's service can rise between
two of its turns, that is the input of its last dispatch and every output token of what it then has in flight,
all of which fits the room: sum(n_in + n_out) <= M.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import pairwise
from math import isfinite
from typing import Protocol, cast


class CostError(ValueError):
    """A cost function that cannot be used; the message names the offending part and what was expected."""


class CostFunction(Protocol):
    def service(self, n_in: int, n_out: int, cached: int = 0) -> float:
        """h(n_in, n_out) where `cached` of the n_in input tokens came from the prefix cache."""

    def most_rise(self, tokens: int, largest: int, longest_input: int) -> float:
        """U for a pool of `tokens` KV tokens, its largest worker `largest`, inputs up to `longest_input` tokens."""


class Cost(CostFunction, Protocol):
    """A cost function that configuration can name. `help` says what it prices."""

    @property
    def help(self) -> str: ...

    @property
    def spec(self) -> dict[str, object]:
        """As a configuration has it: `parse_cost` makes an equal function of it."""

    def wire(self) -> dict[str, object]:
        """What the machine in the store is told of it, for JSON: every price, none left to a default."""


def _check_price(kind: str, name: str, value: object) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(OverflowError):  # an int that is larger than any float
            if isfinite(value) and value >= 0:
                return
    raise CostError(f"cost {kind}: {name} is {value!r}; expected a finite number of at least 0")


@dataclass(frozen=True, slots=True)
class Weighted:
    """Weighted tokens. The default, 1 an input and 2 an output token, is the paper's."""

    input: float = 1.0
    output: float = 2.0
    cached_input: float | None = None  # None: a cached token costs as much as any other input token

    def __post_init__(self) -> None:
        for name in ("input", "output"):
            _check_price("weighted", name, getattr(self, name))
        if self.cached_input is not None:
            _check_price("weighted", "cached_input", self.cached_input)
            if self.cached_input > self.input:
                raise CostError(
                    f"cost weighted: cached_input {self.cached_input:g} is dearer than input {self.input:g}"
                )

    def service(self, n_in: int, n_out: int, cached: int = 0) -> float:
        cached_price = self.input if self.cached_input is None else self.cached_input
        return self.input * (n_in - cached) + cached_price * cached + self.output * n_out

    def most_rise(self, tokens: int, largest: int, longest_input: int) -> float:
        return self.output * tokens + max(0.0, self.input - self.output) * longest_input

    @property
    def help(self) -> str:
        return "a price for each input, cached input and output token"

    @property
    def spec(self) -> dict[str, object]:
        cached = {} if self.cached_input is None else {"cached_input": self.cached_input}
        return {"kind": "weighted", "input": self.input, "output": self.output, **cached}

    def wire(self) -> dict[str, object]:
        return {**self.spec, "cached_input": self.input if self.cached_input is None else self.cached_input}


Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Piecewise:
    """Linear between points (tokens, service); the last segment goes on for ever."""

    input: Points
    output: Points
    cached: float = 1.0

    def __post_init__(self) -> None:
        _check_points("input", self.input)
        _check_points("output", self.output)
        _check_ratio("piecewise", self.cached)

    def service(self, n_in: int, n_out: int, cached: int = 0) -> float:
        return _interpolate(self.input, n_in - (1 - self.cached) * cached) + _interpolate(self.output, n_out)

    def most_rise(self, tokens: int, largest: int, longest_input: int) -> float:
        steep_in, steep_out = max(_slopes(self.input)), max(_slopes(self.output))
        flat = self.input[0][1] + self.output[0][1]
        return flat + steep_out * tokens + max(0.0, steep_in - steep_out) * longest_input

    @property
    def help(self) -> str:
        return "input and output each priced by a line through given points"

    @property
    def spec(self) -> dict[str, object]:
        return {"kind": "piecewise", "input": self.input, "output": self.output, "cached": self.cached}

    def wire(self) -> dict[str, object]:
        return self.spec


@dataclass(frozen=True, slots=True)
class Profiled:
    """The quadratic fitted to a measured profile. Defaults: the paper's fit for Llama-2-7B on an A10G."""

    a: float = 2.1
    b: float = 1.0
    c: float = 0.04
    d: float = 0.032
    e: float = 11.46
    cached: float = 1.0

    def __post_init__(self) -> None:
        for name in "abcde":
            _check_price("profiled", name, getattr(self, name))
        _check_ratio("profiled", self.cached)

    def service(self, n_in: int, n_out: int, cached: int = 0) -> float:
        n_in_paid = n_in - (1 - self.cached) * cached
        return self.a * n_in_paid + self.b * n_out + self.c * n_in_paid * n_out + self.d * n_out * n_out + self.e

    def most_rise(self, tokens: int, largest: int, longest_input: int) -> float:
        """A request of s tokens, a part p of them output, is charged p b + s (c p (1 - p) + d p^2) per token of room
        for its output; that grows with s, so s = the largest worker, and the best p is an end or the vertex."""

        def per_token(p: float) -> float:
            return self.b * p + largest * (self.c * p * (1 - p) + self.d * p * p)

        shares = [0.0, 1.0]
        if self.c > self.d:
            shares.append(min(1.0, (self.b + largest * self.c) / (2 * largest * (self.c - self.d))))
        return tokens * max(per_token(p) for p in shares) + self.a * longest_input + self.e

    @property
    def help(self) -> str:
        return "the quadratic a n_in + b n_out + c n_in n_out + d n_out^2 + e, fitted to a profile"

    @property
    def spec(self) -> dict[str, object]:
        prices = {"a": self.a, "b": self.b, "c": self.c, "d": self.d, "e": self.e, "cached": self.cached}
        return {"kind": "profiled", **prices}

    def wire(self) -> dict[str, object]:
        return self.spec


COSTS: dict[object, type[Weighted] | type[Piecewise] | type[Profiled]] = {
    "weighted": Weighted,
    "piecewise": Piecewise,
    "profiled": Profiled,
}


def parse_cost(spec: str | Mapping[str, object]) -> Cost:
    """A cost function from configuration: a mapping with `kind`, or its short form `weighted:1,2`, `profiled`,
    `profiled:a=2.1,b=1`, `weighted:input=1,output=2,cached_input=0.1`.

    Raises CostError.
    """
    settings = _from_text(spec) if isinstance(spec, str) else dict(spec)
    kind = settings.pop("kind", "weighted")
    if kind not in COSTS:
        raise CostError(f"cost: kind {kind!r} is unknown; expected one of {', '.join(map(str, COSTS))}")
    known = [field.name for field in fields(COSTS[kind])]
    for name in settings:
        if name not in known:
            raise CostError(f"cost {kind}: {name!r} is unknown; expected {', '.join(known)}")
    if kind == "piecewise":
        for name in ("input", "output"):
            settings[name] = _points(name, settings.get(name))
    for name, value in settings.items():
        if not isinstance(value, tuple | None):
            _check_price(str(kind), name, value)
            settings[name] = float(cast(float, value))  # 1 and 1.0 are one price, and are written as one
    return COSTS[kind](**settings)  # type: ignore[arg-type]


def _from_text(text: str) -> dict[str, object]:
    kind, _, arguments = text.partition(":")
    settings: dict[str, object] = {"kind": kind}
    positional = iter(("input", "output", "cached_input"))  # weighted:1,2 and weighted:1,2,0.1
    for argument in filter(None, arguments.split(",")):
        name, equals, value = argument.rpartition("=")
        if not equals and kind == "weighted":
            name = next(positional, "a fourth price")
        try:
            settings[name.strip()] = float(value)
        except ValueError:
            raise CostError(f"cost {text!r}: {value!r} is not a number; write NAME=NUMBER, like output=2") from None
    return settings


def _points(name: str, value: object) -> Points:
    try:
        return tuple((float(x), float(y)) for x, y in cast("Sequence[Sequence[float]]", value))
    except (TypeError, ValueError, OverflowError):
        raise CostError(f"cost piecewise: {name} is {value!r}; expected points [[tokens, service], ...]") from None


def _check_points(name: str, points: Points) -> None:
    if len(points) < 2:
        raise CostError(f"cost piecewise: {name} has {len(points)} points; expected at least two")
    if points[0][0] != 0:
        raise CostError(f"cost piecewise: {name} starts at point {list(points[0])}; the first must be at 0 tokens")
    for point in points:
        for value in point:
            _check_price("piecewise", f"{name} point {list(point)}", value)
    for before, after in pairwise(points):
        if after[0] == before[0]:
            raise CostError(
                f"cost piecewise: {name} jumps at point {list(after)}: two values at {after[0]:g} tokens; "
                "expected a continuous function"
            )
        if after[0] < before[0]:
            raise CostError(f"cost piecewise: {name} goes back at point {list(after)}; expected rising token counts")
        if after[1] < before[1]:
            raise CostError(f"cost piecewise: {name} falls at point {list(after)}; expected a monotone function")


def _check_ratio(kind: str, cached: float) -> None:
    _check_price(kind, "cached", cached)
    if cached > 1:
        raise CostError(f"cost {kind}: cached is {cached}; expected a part of a token, 0 to 1")


def _slopes(points: Points) -> list[float]:
    return [(y1 - y0) / (x1 - x0) for (x0, y0), (x1, y1) in pairwise(points)]


def _interpolate(points: Points, x: float) -> float:
    last = min(bisect_right(points, (x, float("inf"))), len(points) - 1)
    (x0, y0), (x1, y1) = points[last - 1], points[last]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
