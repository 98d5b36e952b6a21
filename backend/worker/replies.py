"""The OpenAI bodies the worker writes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

DONE = b"data: [DONE]\n\n"


def event(payload: object) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def usage(prompt_tokens: int, output_tokens: int) -> dict[str, Any]:
    """Token counts; no prefix is cached here, so none of the prompt is discounted."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": prompt_tokens + output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


@dataclass(frozen=True, slots=True)
class Replies:
    """The bodies of one response. `chat`: chat completions, else text completions."""

    chat: bool
    id: str
    model: str
    created: int

    def whole(self, text: str, finish: str, counts: dict[str, Any]) -> dict[str, Any]:
        said = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        return {**self._head(""), "choices": [_choice(said, finish)], "usage": counts}

    def opening(self) -> dict[str, Any]:
        """The first chunk of a chat: who speaks."""
        return {**self._head(".chunk"), "choices": [_choice({"delta": {"role": "assistant", "content": ""}}, None)]}

    def chunk(self, text: str, finish: str | None) -> dict[str, Any]:
        said = {"delta": {"content": text}} if self.chat else {"text": text}
        return {**self._head(".chunk"), "choices": [_choice(said, finish)]}

    def closing(self, counts: dict[str, Any]) -> dict[str, Any]:
        """The chunk that carries the final usage and no choice."""
        return {**self._head(".chunk"), "choices": [], "usage": counts}

    def _head(self, suffix: str) -> dict[str, Any]:
        kind = f"chat.completion{suffix}" if self.chat else "text_completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def _choice(said: dict[str, Any], finish: str | None) -> dict[str, Any]:
    return {"index": 0, **said, "logprobs": None, "finish_reason": finish}


def model_card(name: str, created: int, max_len: int, parent: str | None) -> dict[str, Any]:
    """An entry of /v1/models; `parent` is the base model of an adapter."""
    card = {"id": name, "object": "model", "created": created, "owned_by": "fairgate"}
    return {**card, "root": name, "parent": parent, "max_model_len": max_len}
