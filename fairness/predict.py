"""Predictors of output length, for reserve-and-settle (OSDI'24 section 4.4): tokens in, tokens out, no clock."""

from __future__ import annotations

from collections import OrderedDict, deque
from math import ceil
from typing import Generic, Protocol, TypeVar

from fairness.ticket import Ticket

Memory = TypeVar("Memory")


class Predictor(Protocol):
    def predict(self, ticket: Ticket) -> int:
        """Output tokens to reserve and charge at dispatch. The scheduler caps it at what the ticket may produce."""

    def observe(self, ticket: Ticket) -> None:
        """A ticket finished with `ticket.produced` output tokens."""


class NoPrediction:
    """Charge each token as it is seen, reserve only what is there."""

    def predict(self, ticket: Ticket) -> int:
        return 0

    def observe(self, ticket: Ticket) -> None:
        pass


class MaxTokens(NoPrediction):
    """Reserve the most a request may produce: never wrong by too little, so the bound holds without an overrun term."""

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


class Ewma:
    """Per tenant, (4 old + new) / 5, the authors' "predict".

    A tenant not seen yet is predicted `start` tokens (the authors start from 0).
    """

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


class LastK:
    """Per tenant, the lengths of the last `k` outputs, and their mean as prediction (OSDI'24 section 5.1 has k = 5).

    A tenant not seen yet is predicted 0 tokens.
    """

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


class Quantile(LastK):
    """Per tenant, the smallest of the last `k` outputs that at least a part `q` of them did not exceed: a high
    quantile reserves more and overruns less."""

    def __init__(self, q: float = 0.9, k: int = 20, keep: int = 100_000) -> None:
        super().__init__(k, keep)
        self._q = q

    def _summary(self, lengths: deque[int]) -> int:
        return sorted(lengths)[max(0, ceil(self._q * len(lengths)) - 1)]


def parse_predictor(spec: str) -> Predictor:
    """`none`, `max_tokens`, `ewma`, `mean:K` (of the last K outputs), or `quantile:Q` (0 < Q <= 1, of the last 20).

    Raises ValueError that names these forms.
    """
    name, _, argument = spec.partition(":")
    if name == "mean" and argument.isdecimal() and int(argument) > 0:
        return LastK(int(argument))
    if name == "quantile" and (q := _part(argument)):
        return Quantile(q)
    plain: dict[str, type[NoPrediction | Ewma]] = {"none": NoPrediction, "max_tokens": MaxTokens, "ewma": Ewma}
    if name in plain and not argument:
        return plain[name]()
    raise ValueError(f"predict {spec!r}: expected none, max_tokens, ewma, mean:K like mean:5, or quantile:Q like 0.9")


def _part(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value <= 1 else None
