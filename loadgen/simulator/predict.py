"""Predictors that know the answer: for the simulator, where true output lengths are known."""

from __future__ import annotations

import random
from collections.abc import Mapping
from math import isfinite

from fairness import Ewma, NoPrediction, Predictor, Ticket
from loadgen.errors import LoadgenError


class Oracle(NoPrediction):
    """Predicts the true output length, off by a uniform +-`noise` of it. Drawn once per ticket: a head that is
    tried again is predicted the same."""

    def __init__(self, output_tokens: Mapping[Ticket, int], noise: float = 0.0, seed: int = 0) -> None:
        self._output_tokens = output_tokens
        self._noise = noise
        self._seed = seed

    def predict(self, ticket: Ticket) -> int:
        length = self._output_tokens[ticket]
        if not self._noise:
            return length
        chance = random.Random(f"{self._seed}:{ticket.id}")
        return round(length * chance.uniform(1 - self._noise, 1 + self._noise))


def check_predict(spec: str) -> None:
    """Raises LoadgenError unless `spec` is one of the forms that `parse_predict` takes."""
    parse_predict(spec, {}, 0)


def parse_predict(spec: str, output_tokens: Mapping[Ticket, int], seed: int) -> Predictor:
    """`none`, `ewma`, `oracle`, or NOISE between 0 and 1: uniform within +-NOISE of the true length.

    Raises LoadgenError that names these forms.
    """
    if spec == "none":
        return NoPrediction()
    if spec == "ewma":
        return Ewma()
    return Oracle(output_tokens, 0.0 if spec == "oracle" else _noise(spec), seed)


def _noise(spec: str) -> float:
    try:
        noise = float(spec)
    except ValueError:
        noise = -1.0
    if not (isfinite(noise) and 0 <= noise <= 1):
        raise LoadgenError(f"predict {spec!r}: expected none, ewma, oracle, or a noise between 0 and 1, like 0.5")
    return noise
