"""How a line of the log is written: one line for one event, printable and bounded, whatever a client or engine sent."""

from __future__ import annotations

import json
import logging
from typing import Any

import orjson

from gateway.record import Record

MOST_TEXT = 256
"""Characters of one field of the access log; what configuration and edge let through otherwise has 128 at most."""
MOST_MESSAGE = 2_000
"""Characters of a message."""
MOST_TRACEBACK = 16_000
"""Characters of a traceback, its end, where it says what happened."""


def access_line(record: Record) -> bytes:
    """One JSON object in ASCII. Holds no key and nothing of the request's or the answer's content."""
    ttft = record.ttft()
    fields = {
        "request_id": bounded(record.request_id),
        "tenant": bounded(record.tenant),
        "pool": bounded(record.pool),
        "model": bounded(record.model),
        "path": bounded(record.path),
        "stream": record.stream,
        "status": record.status,
        "outcome": bounded(record.outcome),
        "worker": bounded(record.worker),
        "attempts": record.attempts,
        "overflows": record.overflows,
        "queue_ms": _milliseconds(record.queued),
        "ttft_ms": None if ttft is None else _milliseconds(ttft),
        "duration_ms": _milliseconds(record.ended - record.started),
        "input_tokens": record.input_tokens,
        "cached_tokens": record.cached_tokens,
        "output_tokens": record.output_tokens,
    }
    return _json(fields) + b"\n"


def bounded(text: str, most: int = MOST_TEXT) -> str:
    """At most so many characters of it, and a mark where some were cut off."""
    return text if len(text) <= most else text[:most] + "..."


def _milliseconds(seconds: float) -> float:
    """To the microsecond; `round(x, 3)` gives the same and costs four times as much."""
    return round(seconds * 1e6) / 1000


def _json(fields: dict[str, Any]) -> bytes:
    """Escapes all that is not printable ASCII. orjson leaves alone what a terminal or a reader of lines may still act
    upon (U+009B begins a control sequence, U+2028 ends a line) and refuses lone surrogates, so those are left to json.
    """
    try:
        line = orjson.dumps(fields)
    except orjson.JSONEncodeError:
        line = b"\x7f"
    if line.isascii() and b"\x7f" not in line:
        return line
    return json.dumps(fields, separators=(",", ":")).replace("\x7f", "\\u007f").encode("ascii")


class LineFormatter(logging.Formatter):
    """The message on a line of its own. Lines of a traceback are indented, and so can be taken for no message."""

    def format(self, record: logging.LogRecord) -> str:
        text = printable(bounded(record.getMessage(), MOST_MESSAGE))
        if record.exc_info:
            traceback = self.formatException(record.exc_info)[-MOST_TRACEBACK:]
            text += "".join(f"\n    {printable(line)}" for line in traceback.split("\n"))
        return text


def printable(text: str) -> str:
    """With control characters, line separators, changes of writing direction and lone surrogates as `\\x1b`, `\\u2028`.

    >>> printable("one\\ntwo")
    'one\\\\ntwo'
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
