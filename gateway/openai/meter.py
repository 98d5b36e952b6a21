"""The meter of one answer: what it consumed so far, and what of each event the client gets to see.

A chunk is not a token. Where the engine reports usage it counts: continuous usage is a running total per choice and
prompt (so vLLM and SGLang send it), usage beside several choices or none a total over all. Where it does not, a chunk
with content counts as one token until the final usage corrects it.
"""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from gateway.errors import EngineRefused, UpstreamError
from gateway.openai.members import without

Chunk = dict[str, Any]

NOT_THE_CLIENTS = frozenset((401, 403, 429))
"""Errors of the 4xx that an engine may have with a gateway, and not with what a client asked."""
_USAGE = re.compile(rb',\s*"usage"\s*:\s*')
_MOST = 2**53
"""From here on a number in JSON is several integers to one parser or the other, and no count of tokens to anybody."""
_DECODER = json.JSONDecoder()
_ENCODER = json.JSONEncoder(separators=(",", ":"))


def to_json(value: Chunk) -> bytes:
    """Compact JSON in ASCII: half a surrogate pair, which an engine may have escaped, has no bytes of its own."""
    return _ENCODER.encode(value).encode()


def from_json(data: bytes) -> Chunk:
    """An object that an engine sent. Raises UpstreamError, kind `bad_answer`; what it says of an error is raised."""
    try:
        value = _read(data)
    except (ValueError, RecursionError):
        raise UpstreamError("bad_answer", "the engine sent something that is not JSON") from None
    if not isinstance(value, dict):
        raise UpstreamError("bad_answer", "the engine sent JSON that is not an object")
    if value.get("error") or value.get("object") == "error":
        raise _engine_error(value)
    return value


def _read(data: bytes) -> Any:
    """JSON. orjson reads what the standard library reads but for a few things that engines may write all the same, like
    the escape of half a surrogate pair: so what it refuses is read once more. Raises ValueError, RecursionError."""
    try:
        return orjson.loads(data)
    except ValueError:
        return json.loads(data.decode())


class Meter:
    """`produced` output tokens seen so far; `input_tokens` (None: not reported yet) and `cached_tokens` of them.

    `prompts`: how many the request carries. Of several, the input is known only from a total over all.
    """

    def __init__(self, prompts: int = 1) -> None:
        self.prompts = prompts
        self.produced = 0
        self.input_tokens: int | None = None
        self.cached_tokens = 0
        self.finished = False
        self._by_choice: dict[int, int] = {}
        self._open: set[int] = set()

    def read(self, data: bytes) -> Chunk:
        """Parse and count one event. Raises UpstreamError for what is not a chunk, kind `error` for an error event
        (`overflow` when its code is 503), and EngineRefused for one that says that the request is at fault."""
        chunk = from_json(data)
        self._count(chunk)
        return chunk

    def complete(self) -> bool:
        """Every choice that began has ended: a stream may stop here even without [DONE]."""
        return self.finished and not self._open

    def goes_on(self, index: int, tokens: int) -> None:
        """Choice `index` has not ended, and has `tokens` in all by now."""
        before = self._by_choice.get(index, 0)
        if tokens > before:
            self._by_choice[index] = tokens
            self.produced += tokens - before
        self._open.add(index)

    def goes_on_by(self, index: int, events: int) -> None:
        """The same, where the engine does not count: by `events`, each with content."""
        self.goes_on(index, self._by_choice.get(index, 0) + events)

    def counted(self, input_tokens: int, cached_tokens: int) -> None:
        """The engine has counted the input."""
        if input_tokens > 0:
            self.input_tokens = input_tokens
        if cached_tokens > self.cached_tokens:
            self.cached_tokens = cached_tokens

    def _count(self, chunk: Chunk) -> None:
        usage = chunk.get("usage")
        choices = chunk.get("choices") or ()
        try:
            total = len(choices) != 1
            reported = whole(usage.get("completion_tokens")) if usage else 0
            for choice in choices:
                self._count_choice(choice, 0 if total else reported)
            if usage and (total or self.prompts == 1):
                self.read_input(usage)
        except (AttributeError, TypeError):
            raise UpstreamError("bad_answer", "the engine sent an event that is not a chunk of an answer") from None
        if total:
            self.produced = max(self.produced, reported)

    def _count_choice(self, choice: Chunk, reported: int) -> None:
        index = choice.get("index") or 0
        before = self._by_choice.get(index, 0)
        now = max(before, reported) if reported else before + _has_content(choice)
        self._by_choice[index] = now
        self.produced += now - before
        if choice.get("finish_reason") is None:
            self._open.add(index)
        else:
            self._open.discard(index)
            self.finished = True

    def read_input(self, usage: Chunk) -> None:
        details = usage.get("prompt_tokens_details")
        cached = whole(details.get("cached_tokens")) if isinstance(details, dict) else 0
        self.counted(whole(usage.get("prompt_tokens")), cached)


def visible(chunk: Chunk, data: bytes, wants_usage: bool, wants_continuous: bool) -> bytes | None:
    """The event as the client asked for it: usage that the engine was asked for on behalf of the gateway is taken out
    again. None: nothing is left. All else is handed on byte for byte.

    With `include_usage` alone vLLM and SGLang leave `usage` out of events with choices, and OpenAI writes null there.
    So of a client that asked for that, an object is taken out, and null stays. An event without choices is there for
    its usage; where it has none it has something else to say (Azure's first: what its filters found in the prompt).
    """
    if "usage" not in chunk or (wants_usage and wants_continuous):
        return data
    usage, choices = chunk["usage"], chunk.get("choices")
    if wants_usage and (usage is None or not choices):
        return data
    if isinstance(usage, dict) and not choices:
        return None
    del chunk["usage"]
    return _without_usage(data, chunk)


def _without_usage(data: bytes, rest: Chunk) -> bytes:
    """An event less its member `usage`, `rest` being what is to be left. Where it stands as engines write it, behind
    another member, a cut is tried that is right when what is left reads as `rest`: four times as fast as `without`."""
    for found in _USAGE.finditer(data):
        try:
            end = _end_of_value(data, found.end())
            cut = data[: found.start()] + data[end:]
            if _read(cut) == rest:
                return cut
        except ValueError:
            continue
    return without(data, "usage")


def _end_of_value(data: bytes, start: int) -> int:
    """Where the JSON value that begins at `start` is over. Raises ValueError."""
    text = data[start:].decode()
    _, length = _DECODER.raw_decode(text)
    return start + len(text[:length].encode())


def _has_content(choice: Chunk) -> int:
    if choice.get("text"):
        return 1
    delta = choice.get("delta")
    return int(isinstance(delta, dict) and any(value for key, value in delta.items() if key != "role"))


def whole(value: object) -> int:
    """A count of tokens, 0 for what is none. Some engines write 7 as 7.0."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 < value < _MOST else 0


def _engine_error(chunk: Chunk) -> UpstreamError | EngineRefused:
    """What an engine reported under status 200. vLLM finds some requests at fault only when it has begun to stream; the
    client hears of those what it would have heard without a stream."""
    error = chunk.get("error")
    details = error if isinstance(error, dict) else chunk
    code = details.get("code")
    if type(code) is int and 400 <= code < 500 and code not in NOT_THE_CLIENTS:
        return EngineRefused(code, to_json(chunk))
    kind = "overflow" if str(code) == "503" else "error"
    return UpstreamError(kind, f"the engine reported: {details.get('message') or error}")
