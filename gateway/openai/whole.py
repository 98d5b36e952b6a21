"""An answer that comes in one piece: handed on as the engine wrote it, and metered from the usage in it."""

from __future__ import annotations

from math import ceil
from typing import Any

from gateway.errors import EngineRefused, UpstreamError
from gateway.openai.estimate import weigh
from gateway.openai.meter import Chunk, Meter, from_json, whole

MOST_BYTES = 256 * 1024 * 1024


class WholeAnswer:
    """A reading (see endpoint.py) of one JSON body."""

    def __init__(self) -> None:
        self.meter = Meter()
        self.began = False
        self.ended = False
        self.fault: UpstreamError | EngineRefused | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._body = b""

    def feed(self, data: bytes) -> bytes:
        self._parts.append(data)
        self._size += len(data)
        if self._size > MOST_BYTES:
            self.fault = UpstreamError("bad_answer", f"the engine sent an answer of more than {MOST_BYTES} bytes")
        return b""

    def close(self) -> None:
        self._body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts = []
        answer = from_json(self._body)
        usage = answer.get("usage")
        told: Any = None
        if isinstance(usage, dict):
            self.meter.read_input(usage)
            told = usage.get("completion_tokens")
        self.meter.produced = whole(told) or (0 if told == 0 else _weighed(answer))
        self.began = self.ended = True

    def ending(self) -> bytes:
        return self._body


def _weighed(answer: Chunk) -> int:
    """What it may have cost, where the engine does not say: by its text, four bytes a token. Raises UpstreamError."""
    choices: Any = answer.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise UpstreamError("bad_answer", "the engine sent an answer whose choices are none")
    return ceil(weigh([choice.get("message") or choice.get("text") for choice in choices]))
