"""Metering in the bytes: a read full of events that all look alike is counted and cut without parsing any of them.

Within a stream an engine writes the same bytes before each choice, and the usage after it:

    data: {"id":"cmpl-1","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":" tea",
          "logprobs":null,"finish_reason":null}],"usage":{"prompt_tokens":9,"total_tokens":12,"completion_tokens":3}}
    \\________________________ prefix ________________________________/
                                                     \\_________________________ usage, last ______________________/

(one line). One event is read by the parser, and its prefix is kept if the parser finds in it what it should hold. A
read is taken here only when all of its events have that prefix, one choice that goes on, and usage in one known
form as the last member; of a running total the last one counts. Whatever else comes - an end, an error, tool calls,
several choices, usage elsewhere - goes to the parser, event by event (stream.py).

Why bytes may be trusted: inside a JSON string a quote is always escaped. So `"error"` or `,"usage":{` with bare quotes
is no text, however an answer may read: the text `,"usage":{"x` is written `,\\"usage\\":{\\"x`. Two things are not
looked at: what a choice says between index and finish_reason (were it no JSON, the client would get it as it came),
and a second choice that has neither an index nor a finish_reason, which no engine writes.
"""

from __future__ import annotations

import re

import orjson

from gateway.openai.meter import Chunk, Meter

_CHOICE = re.compile(rb'"choices":\[\{"index":(\d{1,4}),')
_USAGE = re.compile(
    rb',"usage":\{"prompt_tokens":(\d{1,15}),"total_tokens":\d{1,15},"completion_tokens":([1-9]\d{0,14})'
    rb'(?:,"prompt_tokens_details":(?:null|\{"cached_tokens":(\d{1,15})\}))?(?:,"reasoning_tokens":\d{1,15})?\}\}\n\n'
)
_OPEN, _FINISH, _INDEX, _ERROR = b'"finish_reason":null', b'"finish_reason"', b'"index":', b'"error"'
_CONTENT, _NO_CONTENT, _TEXT, _NO_TEXT = b'"delta":{"content":"', b'"delta":{"content":""', b'"text":"', b'"text":""'
MOST_LEARNED = 4
"""Times that a stream's prefix is learned; one that changes from event to event is not worth it."""


class Shape:
    """What the events of one stream begin with. `left`: what stands in the place of usage for this client, None where
    it is to see it all."""

    def __init__(self, meter: Meter, left: bytes | None) -> None:
        self._meter = meter
        self._left = left
        self._prefix = b""
        self._index = 0
        self._learned = 0 if meter.prompts == 1 else MOST_LEARNED

    def learn(self, chunk: Chunk, data: bytes) -> None:
        """From an event that the parser has read."""
        if self._learned >= MOST_LEARNED:
            return
        self._learned += 1
        found = _CHOICE.search(data)
        if found is None:
            return
        prefix = data[: found.end()]
        index = int(found.group(1))
        try:
            begun = orjson.loads(prefix[:-1] + b"}]}")
        except ValueError:
            return
        if begun.get("choices") == [{"index": index}] and len(chunk["choices"]) == 1:
            self._prefix, self._index = b"data: " + prefix, index

    def take(self, text: bytes) -> bytes | None:
        """Count whole events, and return what the client gets of them; None: not all of them have this shape."""
        prefix = self._prefix
        if not prefix or not text.startswith(prefix):
            return None
        events = text.count(b"\n\n")
        if (
            text.count(b"\n") != 2 * events
            or text.count(_FINISH) != events
            or text.count(_OPEN) != events
            or text.count(_INDEX) != events
            or _ERROR in text
            or (events > 1 and text.count(prefix) != events)
        ):
            return None
        if b'"usage"' not in text:
            return self._uncounted(text, events)
        return self._counted(text, events)

    def _counted(self, text: bytes, events: int) -> bytes | None:
        """Each event with a running total."""
        start = text.rfind(b"\n\n", 0, -2) + 2 if events > 1 else 0
        last = _USAGE.search(text, start)
        if last is None:
            return None
        left = self._left
        if events == 1:
            out = text if left is None else text[: last.start()] + left
        else:
            cut, cuts = _USAGE.subn(left or b"", text)
            if cuts != events:
                return None
            out = text if left is None else cut
        input_tokens, tokens, cached = last.groups()
        self._meter.counted(int(input_tokens), int(cached or 0))
        self._meter.goes_on(self._index, int(tokens))
        return out

    def _uncounted(self, text: bytes, events: int) -> bytes | None:
        """Each event with content and no usage: a token each, until the final usage corrects it."""
        if not (
            (text.count(_CONTENT) == events and _NO_CONTENT not in text)
            or (text.count(_TEXT) == events and _NO_TEXT not in text)
        ):
            return None
        self._meter.goes_on_by(self._index, events)
        return text
