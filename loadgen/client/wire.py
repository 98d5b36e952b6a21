"""The OpenAI protocol as the client speaks it: request bodies out, events and errors in. No sockets here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from loadgen.client.record import Exchange

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
PATHS = (CHAT, COMPLETIONS)


def request_body(path: str, exchange: Exchange, prompt: str) -> dict[str, object]:
    """A greedy streaming request of an exact length; the usage in every chunk says how many tokens it really holds.

    `user` tells an engine behind a gateway whom it serves.
    """
    asked = {"prompt": prompt} if path == COMPLETIONS else {"messages": [{"role": "user", "content": prompt}]}
    return {
        "model": exchange.model,
        **asked,
        "user": exchange.tenant,
        "max_tokens": exchange.wanted_output_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }


def note_event(exchange: Exchange, payload: bytes, now: float) -> str | None:
    """Enter one event; returns the code of the error it carries, if any.

    Tokens are what `usage` says. An engine that sends usage only at the end is counted by chunks until then.
    """
    try:
        event = json.loads(payload)
        if "error" in event:
            exchange.error_events += 1
            return _code(event)
        _count(exchange, event, now)
    except (ValueError, TypeError, AttributeError):
        return "malformed_event"
    return None


def _count(exchange: Exchange, event: Mapping[str, Any], now: float) -> None:
    usage = event.get("usage")
    if usage:
        exchange.input_tokens = int(usage.get("prompt_tokens", 0))
        produced = int(usage.get("completion_tokens", 0))
    else:
        produced = exchange.output_tokens + any(_has_text(choice) for choice in event.get("choices", ()))
    if produced > exchange.output_tokens:
        exchange.times_s.append(now)
        exchange.counts.append(produced)


def _has_text(choice: Mapping[str, Any]) -> bool:
    return bool(choice.get("text") or choice.get("delta", {}).get("content"))


def error_code(body: bytes) -> str:
    try:
        return _code(json.loads(body))
    except ValueError:
        return "unreadable_error"


def _code(answer: object) -> str:
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, dict):
        return "unreadable_error"
    return str(error.get("code") or error.get("type") or "unnamed_error")


def queue_seconds(header: str | None) -> float | None:
    try:
        return None if header is None else float(header) / 1000
    except ValueError:
        return None
