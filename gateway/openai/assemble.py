"""A streamed answer put together again, as the engine would have sent it in one piece.

Strings of a delta are joined, lists extended, tool calls merged by their index; of everything else the last value
that is not null stands. Fields this module has never heard of follow the same rule.
"""

from __future__ import annotations

from typing import Any

from gateway.openai.meter import Chunk, to_json
from gateway.openai.stream import Event

_ONCE = {"role", "id", "type"}  # strings that are repeated, not continued


class Assembler:
    """A form of an answer (see stream.py): nothing at first, the whole in the end."""

    def __init__(self) -> None:
        self._top: Chunk = {}
        self._choices: dict[int, Chunk] = {}
        self._usage: Chunk | None = None

    def take(self, batch: list[Event]) -> bytes:
        for chunk, _ in batch:
            self.add(chunk)
        return b""

    def add(self, chunk: Chunk) -> None:
        for key, value in chunk.items():
            if key not in ("choices", "usage") and (value is not None or key not in self._top):
                self._top[key] = value
        self._usage = chunk.get("usage") or self._usage
        for choice in chunk.get("choices") or ():
            self._add_choice(choice)

    def ending(self) -> bytes:
        """The answer as JSON, choices in the order of their index."""
        top = self._top
        if top.get("object") == "chat.completion.chunk":
            top["object"] = "chat.completion"
        choices = [_finished(self._choices[index]) for index in sorted(self._choices)]
        whole = {**top, "choices": choices, "usage": self._usage}
        return to_json(whole)

    def _add_choice(self, choice: Chunk) -> None:
        whole = self._choices.setdefault(choice.get("index") or 0, {"index": choice.get("index") or 0})
        for key, value in choice.items():
            if key == "delta":
                _merge(whole.setdefault("message", {"role": "assistant", "content": None}), value or {})
            elif key in ("text", "logprobs"):
                whole[key] = _joined(key, whole.get(key), value)
            elif value is not None or key not in whole:
                whole[key] = value


def _finished(choice: Chunk) -> Chunk:
    message = choice.get("message")
    if isinstance(message, dict) and isinstance(message.get("tool_calls"), list):
        message["tool_calls"] = [
            {key: value for key, value in call.items() if key != "index"} if isinstance(call, dict) else call
            for call in message["tool_calls"]
        ]
    return choice


def _merge(whole: Chunk, part: Chunk) -> None:
    for key, value in part.items():
        whole[key] = _joined(key, whole.get(key), value)


def _joined(key: str, old: Any, new: Any) -> Any:
    if new is None or old is None:
        return _copied(old if new is None else new)
    if isinstance(old, str) and isinstance(new, str) and key not in _ONCE:
        return old + new
    if isinstance(old, dict) and isinstance(new, dict):
        _merge(old, new)
        return old
    if isinstance(old, list) and isinstance(new, list):
        return _by_index(old, new) if _indexed(new) else old + new
    return new


def _copied(value: Any) -> Any:
    """A value to merge into: a list of parts with an index is merged from the start, so that parts may repeat."""
    return _by_index([], value) if isinstance(value, list) and _indexed(value) else value


def _indexed(parts: list[Any]) -> bool:
    return bool(parts) and all(isinstance(part, dict) and type(part.get("index")) is int for part in parts)


def _by_index(old: list[Any], new: list[Any]) -> list[Any]:
    for part in new:
        found = next((item for item in old if isinstance(item, dict) and item.get("index") == part["index"]), None)
        if found is None:
            old.append(dict(part))
        else:
            _merge(found, part)
    return sorted(old, key=lambda item: int(item["index"]))
