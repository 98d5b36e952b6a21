"""Predictors of output length, for reserve-and-settle (OSDI'24 section 4.4): tokens in, tokens out, no clock."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from math import ceil
from typing import ClassVar, Generic, Protocol, TypeVar

from mypy_extensions import mypyc_attr

from fairness.ticket import Ticket

Memory = TypeVar("Memory")


@mypyc_attr(allow_interpreted_subclasses=True)
class Predictor(Protocol):
    def predict(self, ticket: Ticket) -> int:
        """Output tokens to reserve and charge at dispatch. The scheduler caps it at what the ticket may produce."""

    def observe(self, ticket: Ticket) -> None:
        """A ticket finished with `ticket.produced` output tokens."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Configured(Predictor):
    """A predictor that configuration can name: it describes itself. Plain Python may derive from it.

    `form` is how a configuration writes it, `help` what it predicts. What its spec has after the colon is called
    `argument` on the wire.
    """

    kind: ClassVar[str] = ""
    form: ClassVar[str] = ""
    help: ClassVar[str] = ""
    argument: ClassVar[str] = ""

    @classmethod
    def parse(cls, argument: str) -> Configured | None:
        """From what a spec has after the colon, empty where there is none; None: it takes no such thing."""
        return None if argument else cls()

    def wire(self) -> dict[str, object]:
        """What the machine in the store is told of it, for JSON: k outputs that are remembered, the quantile q."""
        return {"kind": self.kind, "k": 20, "q": 0.0}

    @property
    def spec(self) -> str:
        """Its text in a configuration: `parse_predictor` makes the same of it."""
        return f"{self.kind}:{self.wire()[self.argument]}" if self.argument else self.kind


@mypyc_attr(allow_interpreted_subclasses=True)
class NoPrediction(Configured):
    """Charge each token as it is seen, reserve only what is there."""

    kind: ClassVar[str] = "none"
    form: ClassVar[str] = "none"
    help: ClassVar[str] = "nothing is charged or reserved before it is seen"

    def predict(self, ticket: Ticket) -> int:
        return 0

    def observe(self, ticket: Ticket) -> None:
        pass


class MaxTokens(NoPrediction):
    """Reserve the most a request may produce: never wrong by too little, so the bound holds without an overrun term."""

    kind: ClassVar[str] = "max_tokens"
    form: ClassVar[str] = "max_tokens"
    help: ClassVar[str] = "the most that the request may produce"

    def predict(self, ticket: Ticket) -> int:
        return ticket.max_tokens


class PerTenant(Generic[Memory]):
    """What was seen of each tenant; remembers the `keep` tenants seen last."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._seen: OrderedDict[str, Memory] = OrderedDict()

    def get(self, ticket: Ticket) -> Memory | None:
        return self._seen.get(ticket.tenant)

    def put(self, ticket: Ticket, memory: Memory) -> None:
        self._seen[ticket.tenant] = memory
        self._seen.move_to_end(ticket.tenant)
        if len(self._seen) > self._keep:
            self._seen.popitem(last=False)


class Ewma(Configured):
    """Per tenant, (4 old + new) / 5, the authors' "predict".

    A tenant not seen yet is predicted `start` tokens (the authors start from 0).
    """

    kind: ClassVar[str] = "ewma"
    form: ClassVar[str] = "ewma"
    help: ClassVar[str] = "of each tenant, a running average: (4 old + new) / 5"

    def __init__(self, start: float = 0.0, keep: int = 100_000) -> None:
        self._start = start
        self._mean: PerTenant[float] = PerTenant(keep)

    def predict(self, ticket: Ticket) -> int:
        return round(self._known(ticket))

    def observe(self, ticket: Ticket) -> None:
        self._mean.put(ticket, (4 * self._known(ticket) + ticket.produced) / 5)

    def _known(self, ticket: Ticket) -> float:
        mean = self._mean.get(ticket)
        return self._start if mean is None else mean


class LastK(Configured):
    """Per tenant, the lengths of the last `k` outputs, and their mean as prediction (OSDI'24 section 5.1 has k = 5).

    A tenant not seen yet is predicted 0 tokens.
    """

    kind: ClassVar[str] = "mean"
    form: ClassVar[str] = "mean:K like mean:5"
    help: ClassVar[str] = "of each tenant, the mean of its last K outputs"
    argument: ClassVar[str] = "k"

    def __init__(self, k: int = 5, keep: int = 100_000) -> None:
        self._k = k
        self._lengths: PerTenant[deque[int]] = PerTenant(keep)

    def predict(self, ticket: Ticket) -> int:
        lengths = self._lengths.get(ticket)
        return self._summary(lengths) if lengths else 0

    def _summary(self, lengths: deque[int]) -> int:
        return round(sum(lengths) / len(lengths))

    def observe(self, ticket: Ticket) -> None:
        lengths = self._lengths.get(ticket)
        if lengths is None:
            lengths = deque(maxlen=self._k)
        lengths.append(ticket.produced)
        self._lengths.put(ticket, lengths)

    @classmethod
    def parse(cls, argument: str) -> Configured | None:
        return cls(int(argument)) if argument.isdecimal() and int(argument) > 0 else None

    def wire(self) -> dict[str, object]:
        return {**super().wire(), "k": self._k}


class Quantile(LastK):
    """Per tenant, the smallest of the last `k` outputs that at least a part `q` of them did not exceed: a high
    quantile reserves more and overruns less."""

    kind: ClassVar[str] = "quantile"
    form: ClassVar[str] = "quantile:Q like 0.9"
    help: ClassVar[str] = "of each tenant, the length that a part Q of its last 20 outputs did not exceed"
    argument: ClassVar[str] = "q"

    def __init__(self, q: float = 0.9, k: int = 20, keep: int = 100_000) -> None:
        super().__init__(k, keep)
        self._q = q

    def _summary(self, lengths: deque[int]) -> int:
        return sorted(lengths)[max(0, ceil(self._q * len(lengths)) - 1)]

    @classmethod
    def parse(cls, argument: str) -> Configured | None:
        return Quantile(q) if (q := _part(argument)) else None

    def wire(self) -> dict[str, object]:
        return {**super().wire(), "q": self._q}


PREDICTORS: dict[str, type[Configured]] = {
    predictor.kind: predictor for predictor in (NoPrediction, MaxTokens, Ewma, LastK, Quantile)
}


def parse_predictor(spec: str | Mapping[str, object]) -> Configured:
    """A predictor from its spec, `none`, `mean:5`... (each says its `form` and its `help`), or from its wire form.

    Raises ValueError that names the accepted forms.
    """
    kind, argument = _kind_and_argument(spec)
    predictor = PREDICTORS[kind].parse(argument) if kind in PREDICTORS else None
    if predictor is None:
        *forms, last = [known.form for known in PREDICTORS.values()]
        raise ValueError(f"predict {spec!r}: expected {', '.join(forms)}, or {last}")
    return predictor


def _kind_and_argument(spec: str | Mapping[str, object]) -> tuple[str, str]:
    if isinstance(spec, str):
        kind, _, argument = spec.partition(":")
        return kind, argument
    kind = str(spec["kind"])
    key = PREDICTORS[kind].argument if kind in PREDICTORS else ""
    return kind, str(spec[key]) if key else ""


def _part(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value <= 1 else None
