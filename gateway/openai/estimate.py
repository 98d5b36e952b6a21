"""How many input tokens a request has, before an engine has counted them.

    estimate = ratio(model) * (bytes of text / 4 + 4 for each message)

Four bytes a token is the rule of thumb for English and a subword vocabulary. `ratio` starts at 1 and is corrected by
what engines report: an exponentially weighted mean, 0.9 old + 0.1 new, of counted / uncorrected. Prompts given as
token ids are counted exactly. Inline data (`data:` URLs of images, audio) is worth a flat 256 tokens an item.
The scheduler replaces the estimate by the engine's own count as soon as that is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

BYTES_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 4
TOKENS_PER_ATTACHMENT = 256
_PROMPT_FIELDS = ("prompt", "suffix", "tools", "functions", "response_format")


class Estimator:
    """Remembers one ratio per model; `models` come from configuration, so it stays small."""

    def __init__(self) -> None:
        self._ratio: dict[str, float] = {}

    def estimate(self, model: str, raw: float) -> int:
        """Input tokens, at least 1, of a request whose `raw_tokens` is `raw`."""
        return max(1, ceil(raw * self._ratio.get(model, 1.0)))

    def observe(self, model: str, raw: float, counted: int) -> None:
        """An engine counted `counted` input tokens where `raw_tokens` said `raw`."""
        if raw <= 0 or counted <= 0:
            return
        ratio = min(16.0, max(1 / 16, counted / raw))
        self._ratio[model] = 0.9 * self._ratio.get(model, 1.0) + 0.1 * ratio


def raw_tokens(body: Mapping[str, Any]) -> float:
    """The uncorrected estimate of a request body (chat or completion)."""
    messages = body.get("messages")
    total = weigh(messages) + sum(weigh(body[name]) for name in _PROMPT_FIELDS if name in body)
    return total + (TOKENS_PER_MESSAGE * len(messages) if isinstance(messages, list) else 0)


def weigh(value: Any) -> float:
    """Tokens of text, of token ids, and of whatever holds them, however deep."""
    total, left = 0.0, [value]
    while left:
        value = left.pop()
        if isinstance(value, str):
            total += _weigh_text(value)
        elif isinstance(value, dict):
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)
        elif type(value) is int:
            total += 1
    return total


def _weigh_text(text: str) -> float:
    if text.startswith("data:"):
        return TOKENS_PER_ATTACHMENT
    return (len(text) if text.isascii() else len(text.encode("utf-8", "replace"))) / BYTES_PER_TOKEN
