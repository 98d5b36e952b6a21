"""Metering in the bytes: events that differ in their text and their counts alone are not parsed one by one.

Within a stream an engine writes almost the same bytes again and again (here over three lines):

    data: {"id":"cmpl-1","object":"text_completion","model":"m","choices":[{"index":0,"text":"    <- before
     tea                                                                                          <- the text
    ","finish_reason":null}],"usage":{"prompt_tokens":9,"total_tokens":12,"completion_tokens":3}} <- after, two counts

One event is parsed, and what stands before and after its text is kept, if an event made of these parts with another
text and other counts reads as it should: the same chunk with that text and those counts. From then on an event that
begins with the one, goes on with the other at the next quote, and has digits where counts belong, needs no parser.
Whatever else comes - an end, an error, tool calls, several choices, usage in another form - goes to the parser
(stream.py), event by event.

Why the next quote ends the text: inside a JSON string a quote is written `\\"`. Were the quote that was found such a
one, then what follows it, `","finish_reason":...` with bare quotes, would end the string in its middle, and the event
were no JSON. What the text holds is not looked at: were it no JSON, the client would get it as the engine wrote it.
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

from gateway.openai.meter import Chunk, Meter, visible, whole
from gateway.openai.sse import frame

_BEFORE: Final = re.compile(rb'"(?:text|delta":\{"[a-z_]+)":"')
_TOTAL: Final = b',"total_tokens":'
_COUNT: Final = b',"completion_tokens":'
_END: Final = b"\n\n"
_TEXT, _N, _M = "~", 7, 5
MOST_LEARNED = 8
"""Times that a stream's shape is learned: one that changes from event to event is not worth it."""


class Shape:
    """That of the events of one stream, as far as it is known. Of usage the client sees what it `wants` (see
    `visible`)."""

    def __init__(self, meter: Meter, wants_usage: bool, wants_continuous: bool) -> None:
        self._meter = meter
        self._wants_usage = wants_usage
        self._wants_continuous = wants_continuous
        self._learned = 0 if meter.prompts == 1 else MOST_LEARNED
        self._index = 0
        self._input = 0
        self._counted = False
        self._untouched = False
        self._before = b""
        self._after = b""  # up to the first count, or to the end
        self._between = b""  # the two counts
        self._last = b""  # after the second
        self._seen_after = b""  # what a client gets after the text

    # -- what is known -----------------------------------------------------------------------------------------

    def take(self, text: bytes, start: int, out: list[bytes]) -> int:
        """Count the whole events from `start` on that have this shape, and add to `out` what the client gets of them.
        Returns where the first begins that has not, or the end."""
        before = self._before
        if not before or not text.startswith(before, start):
            return start
        position, events, tokens = start, 0, 0
        while text.startswith(before, position):
            quote = text.find(b'"', position + len(before))
            if not text.startswith(self._after, quote) or quote == position + len(before):
                break
            end = quote + len(self._after)
            if self._counted:
                comma = text.find(b",", end)
                number = comma + len(self._between)
                end = text.find(self._last, number)
                digits = text[number:end] if end >= 0 else b""
                if not (text.startswith(self._between, comma) and _is_count(digits)):
                    break
                if not text[quote + len(self._after) : comma].isdigit():
                    break
                tokens = max(tokens, int(digits))
                end += len(self._last)
            if not self._untouched:
                out.append(text[position:quote])
                out.append(self._seen_after)
            events += 1
            position = end
        if not events:
            return start
        if self._counted:
            self._meter.goes_on(self._index, tokens)
            self._meter.counted(self._input, 0)
        else:
            self._meter.goes_on_by(self._index, events)
        if self._untouched:
            out.append(text[start:position])
        return position

    # -- learning ----------------------------------------------------------------------------------------------

    def learn(self, chunk: Chunk, data: bytes) -> None:
        """From an event that the parser has read and counted."""
        if self._learned >= MOST_LEARNED:
            return
        found = _BEFORE.search(data)
        if found is None:
            return
        self._learned += 1
        parts = _parts(data, found.end(), chunk.get("usage") is not None)
        if parts is None:
            return
        before, after, between, last = parts
        example = before + _TEXT.encode() + after + (b"%d%b%d%b" % (_N, between, _M, last) if between else b"")
        expected = _with(chunk, bool(between))
        try:
            if expected is None or orjson.loads(example) != expected:
                return
        except ValueError:
            return
        seen = visible(orjson.loads(example), example, self._wants_usage, self._wants_continuous) or b""
        if not seen.startswith(before + _TEXT.encode()):
            return
        self._keep(parts, expected, seen)
        self._untouched = seen == example

    def _keep(self, parts: tuple[bytes, bytes, bytes, bytes], expected: Chunk, seen: bytes) -> None:
        before, after, between, last = parts
        self._index = expected["choices"][0]["index"]
        self._counted = bool(between)
        self._input = whole(expected["usage"]["prompt_tokens"]) if between else 0
        self._before = frame(before)[: -len(_END)]
        self._after = after if between else after + _END
        self._between, self._last = between, last + _END
        self._seen_after = seen[len(before) + len(_TEXT) :] + _END


def _parts(data: bytes, start: int, counted: bool) -> tuple[bytes, bytes, bytes, bytes] | None:
    """An event cut around its text, which begins at `start`, and around its counts."""
    quote = data.find(b'"', start)
    if not counted:
        return data[:start], data[quote:], b"", b""
    total = data.find(_TOTAL, quote) + len(_TOTAL)
    comma = data.find(_COUNT, total)
    if total < len(_TOTAL) or comma < 0:
        return None
    number = comma + len(_COUNT)
    last = number
    while data[last : last + 1].isdigit():
        last += 1
    return data[:start], data[quote:total], data[comma:number], data[last:]


def _with(chunk: Chunk, counted: bool) -> Chunk | None:
    """The chunk that an event reads as with another text and other counts; None where its text is not all that it
    has to say."""
    choices = chunk.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or type(choices[0].get("index")) is not int:
        return None
    choice: dict[str, Any] = dict(choices[0])
    if choice.get("finish_reason") is not None:
        return None
    if isinstance(choice.get("text"), str):
        choice["text"] = _TEXT
    elif isinstance(choice.get("delta"), dict) and choice["delta"]:
        delta = dict(choice["delta"])
        name = next(iter(delta))
        delta[name] = _TEXT
        if name == "role" or any(delta[other] for other in delta if other != name):
            return None
        choice["delta"] = delta
    else:
        return None
    changed = {**chunk, "choices": [choice]}
    if counted:
        usage = chunk.get("usage")
        if not isinstance(usage, dict) or not whole(usage.get("prompt_tokens")):
            return None
        changed["usage"] = {**usage, "total_tokens": _N, "completion_tokens": _M}
    return changed


def _is_count(digits: bytes) -> bool:
    """A number of tokens, without a leading zero: what the parser would take for one."""
    return digits.isdigit() and len(digits) <= 15 and not digits.startswith(b"0")
