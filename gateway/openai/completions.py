"""Completions: prompts go in, text comes out."""

from __future__ import annotations

from typing import Any

from gateway.openai.generation import Generation


class Completions(Generation):
    path = "/v1/completions"
    limits: tuple[str, ...] = ("max_tokens",)
    default_max_tokens: int | None = 16
    """What OpenAI and the engines produce for a completion that names no `max_tokens`."""

    def prompts(self, body: dict[str, Any]) -> int:
        """A completion may carry several: a list of strings, or a list of lists of token ids."""
        prompt = body.get("prompt")
        several = isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], str | list)
        return len(prompt) if several and isinstance(prompt, list) else 1
