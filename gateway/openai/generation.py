"""What the endpoints have in common whose engines answer with chunks of choices: chat and completions.

Engines are always asked to stream, with the usage that metering needs; a client that did not ask for events gets them
put together again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.openai.assemble import Assembler
from gateway.openai.body import count, encode, flag, model_of, parse, section
from gateway.openai.endpoint import Ask
from gateway.openai.estimate import raw_tokens
from gateway.openai.meter import Meter
from gateway.openai.sse import frame
from gateway.openai.stream import Events, EventStream
from gateway.ports import Answer

_OPTIONS, _USAGE, _CONTINUOUS = "stream_options", "include_usage", "continuous_usage_stats"


class Generation:
    """An endpoint (see there). `default_max_tokens`: what engines produce for a body that names no limit, where that
    is known."""

    path: str
    default_max_tokens: int | None = None

    def read(self, raw: bytes) -> Ask:
        body = parse(raw)
        model = model_of(body)
        options = section(body, _OPTIONS)
        choices = (count(body, "n") or 1) * self.prompts(body)
        stream = flag(body, "stream")
        for name in (_USAGE, _CONTINUOUS):
            flag(options, name)
        each = count(body, "max_completion_tokens") or count(body, "max_tokens") or self.default_max_tokens
        return Ask(
            endpoint=self,
            model=model,
            body=body,
            stream=stream,
            max_tokens=each * choices if each is not None else None,
            choices=choices,
            raw_tokens=raw_tokens(body),
        )

    def upstream_body(self, ask: Ask, usage_options: Mapping[str, bool]) -> bytes:
        wanted = section(ask.body, _OPTIONS)
        kept = {name: value for name, value in wanted.items() if name != _CONTINUOUS}
        return encode({**ask.body, "stream": True, _OPTIONS: {**kept, **usage_options}})

    def metered(self, ask: Ask, answer: Answer) -> EventStream:
        options = section(ask.body, _OPTIONS)
        events = Events(flag(options, _USAGE), flag(options, _CONTINUOUS))
        return EventStream(answer, Meter(self.prompts(ask.body)), events if ask.stream else Assembler())

    def error_event(self, error: bytes) -> bytes:
        return frame(error)

    def prompts(self, body: dict[str, Any]) -> int:
        """How many prompts it carries."""
        return 1
