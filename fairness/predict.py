"""Predictors of output length, for reserve-and-settle (OSDI'24 section 4.4): tokens in, tokens out, no clock."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from fairness.ticket import Ticket


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


class Ewma:
    """Per tenant, (4 old + new) / 5, the authors' "predict". Remembers the `keep` tenants seen last.

    A tenant not seen yet is predicted `start` tokens (the authors start from 0).
    """

    def __init__(self, start: float = 0.0, keep: int = 100_000) -> None:
        self._start = start
        self._keep = keep
        self._mean: OrderedDict[str, float] = OrderedDict()

    def predict(self, ticket: Ticket) -> int:
        return round(self._mean.get(ticket.tenant, self._start))

    def observe(self, ticket: Ticket) -> None:
        old = self._mean.get(ticket.tenant, self._start)
        self._mean[ticket.tenant] = (4 * old + ticket.produced) / 5
        self._mean.move_to_end(ticket.tenant)
        if len(self._mean) > self._keep:
            self._mean.popitem(last=False)
