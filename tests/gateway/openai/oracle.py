"""What a metered stream must give, said slowly: lines by the standard, every event through the standard library's json.

Nothing here is the gateway's: a misreading that it had in common with what it judges would show in no test. Slow is
well here, clever is not.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
_SPACE = " \t\r\n"
_MOST = 2**53
"""A number above is no count of tokens."""


@dataclass
class Expected:
    """After a part of a stream. `shown`: the data of the events for the client. `fault`: the kind of UpstreamError,
    `refused` where the request is at fault, None where all is well."""

    shown: list[bytes] = field(default_factory=list)
    produced: int = 0
    input_tokens: int | None = None
    cached_tokens: int = 0
    began: bool = False
    ended: bool = False
    complete: bool = False
    fault: str | None = None
    closing: Json | None = None
    """An event of usage that the engine did not send, and that the client asked for."""


def data_of(stream: bytes) -> list[bytes]:
    """The data of all events that a stream of bytes completes (WHATWG HTML, section 9.2.6)."""
    lines = re.split(b"\r\n|\n|\r", stream.removeprefix(b"\xef\xbb\xbf"))
    events: list[bytes] = []
    data: list[bytes] = []
    for line in lines[:-1]:
        name, _, value = line.partition(b":")
        if not line and data:
            events.append(b"\n".join(data))
            data = []
        elif name == b"data":
            data.append(value.removeprefix(b" "))
    return events


def expected(stream: bytes, *, prompts: int, wants_usage: bool, wants_continuous: bool) -> Expected:
    """What is true once all of `stream` has been fed."""
    now = Expected()
    by_choice: Counter[Any] = Counter()
    still_open: set[Any] = set()
    any_finished = told_in_all = False
    for data in data_of(stream):
        if data == b"[DONE]":
            now.ended = True
            break
        chunk, now.fault = _read(data)
        if now.fault:
            break
        now.began = True
        usage, choices = chunk.get("usage") or {}, chunk.get("choices") or []
        alone = len(choices) == 1
        if not alone or prompts == 1:
            now.input_tokens = _count(usage.get("prompt_tokens")) or now.input_tokens
            details = usage.get("prompt_tokens_details")
            cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else 0
            now.cached_tokens = max(now.cached_tokens, cached)
        told = _count(usage.get("completion_tokens"))
        for choice in choices:
            index = choice.get("index") or 0
            before = by_choice[index]
            by_choice[index] = max(before, told) if alone and told else before + _has_content(choice)
            now.produced += by_choice[index] - before
            still_open.add(index)
            if choice.get("finish_reason") is not None:
                still_open.remove(index)
                any_finished = True
        if not alone:
            now.produced = max(now.produced, told)
        if wants_usage and not wants_continuous and usage:
            now.closing = {**chunk, "choices": []} if choices and not told_in_all else None
            told_in_all = told_in_all or not choices
        now.shown += _shown(chunk, data, wants_usage, wants_continuous)
    now.complete = any_finished and not still_open
    return now


def _read(data: bytes) -> tuple[Json, str | None]:
    try:
        chunk = json.loads(data.decode())
    except ValueError:
        return {}, "bad_answer"
    if not isinstance(chunk, dict):
        return {}, "bad_answer"
    if chunk.get("error") or chunk.get("object") == "error":
        error = chunk["error"] if isinstance(chunk.get("error"), dict) else chunk
        if type(error.get("code")) is int and error["code"] in {*range(400, 500)} - {401, 403, 429}:
            return {}, "refused"
        return {}, "overflow" if str(error.get("code")) == "503" else "error"
    usage, choices = chunk.get("usage") or {}, chunk.get("choices") or []
    well = isinstance(usage, dict) and isinstance(choices, list) and all(isinstance(each, dict) for each in choices)
    return chunk, None if well else "bad_answer"


def _count(value: object) -> int:
    if isinstance(value, float) and value == round(value):
        value = round(value)
    return value if type(value) is int and 0 < value < _MOST else 0


def _has_content(choice: Json) -> int:
    delta = choice.get("delta")
    said = [value for name, value in delta.items() if name != "role"] if isinstance(delta, dict) else []
    return int(bool(choice.get("text")) or any(said))


def _shown(chunk: Json, data: bytes, wants_usage: bool, wants_continuous: bool) -> list[bytes]:
    """The event less the usage that the client did not ask for; nothing where there was nothing else in it."""
    if "usage" not in chunk or (wants_usage and wants_continuous):
        return [data]
    if wants_usage and (chunk["usage"] is None or not chunk.get("choices")):
        return [data]
    if isinstance(chunk["usage"], dict) and not chunk.get("choices"):
        return []
    return [without_usage(data)]


def without_usage(data: bytes) -> bytes:
    """A JSON object less its member `usage`, and the comma before it, or after it where it comes first."""
    text = data.decode()
    for name, start, end in reversed(members(text)):
        if name == "usage":
            before, after = text[:start].rstrip(_SPACE), text[end:]
            text = before[:-1] + after if before.endswith(",") else before + after.lstrip(_SPACE).removeprefix(",")
    return text.encode()


def members(text: str) -> list[tuple[str, int, int]]:
    """Name, start and end of each member of a JSON object."""
    decoder = json.JSONDecoder()
    found = []
    at = text.index("{") + 1
    while True:
        while text[at] in _SPACE + ",":
            at += 1
        if text[at] == "}":
            return found
        start = at
        name, at = decoder.raw_decode(text, at)
        while text[at] in _SPACE + ":":
            at += 1
        _, at = decoder.raw_decode(text, at)
        found.append((name, start, at))
