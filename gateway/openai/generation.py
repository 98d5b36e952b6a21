"""What the endpoints have in common whose engines answer with choices: chat and completions.

A request goes to its engine as it came. Only where it asks for a stream does the gateway add the usage that metering
needs, and takes it out of the events again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from gateway.openai.body import count, flag, model_of, parse, section
from gateway.openai.endpoint import Ask, Reading
from gateway.openai.estimate import raw_tokens
from gateway.openai.members import members
from gateway.openai.sse import frame
from gateway.openai.stream import EventStream
from gateway.openai.whole import WholeAnswer

_OPTIONS, _USAGE, _CONTINUOUS = "stream_options", "include_usage", "continuous_usage_stats"
_NONE: dict[str, Any] = {}


class Generation:
    """An endpoint (see there). `limits`: the names under which engines read the most output tokens of a choice, the
    first that is there. `default_max_tokens`: what they produce for a body that names no limit, where that is known."""

    path: str
    limits: tuple[str, ...]
    default_max_tokens: int | None = None

    def read(self, raw: bytes) -> Ask:
        body = parse(raw)
        model = model_of(body)
        stream = flag(body, "stream")
        options = section(body, _OPTIONS) if _OPTIONS in body else _NONE
        prompts = self.prompts(body)
        choices = (count(body, "n") or 1) * prompts
        each = next((most for name in self.limits if (most := count(body, name))), self.default_max_tokens)
        return Ask(
            endpoint=self,
            model=model,
            body=raw,
            stream=stream,
            max_tokens=each * choices if each is not None else None,
            choices=choices,
            raw_tokens=raw_tokens(body),
            prompts=prompts,
            wants_usage=flag(options, _USAGE),
            wants_continuous=flag(options, _CONTINUOUS),
            options_at=_options_at(raw) if stream and _OPTIONS in body else None,
        )

    def upstream_body(self, ask: Ask, usage_options: Mapping[str, bool]) -> bytes:
        if not ask.stream:
            return ask.body
        if ask.options_at is not None:
            return _with_options(ask.body, *ask.options_at, usage_options)
        last = ask.body.rindex(b"}")  # it is an object, and has members
        return ask.body[:last] + b',"stream_options":' + orjson.dumps(usage_options) + b"}"

    def reading(self, ask: Ask) -> Reading:
        return EventStream(ask.prompts, ask.wants_usage, ask.wants_continuous) if ask.stream else WholeAnswer()

    def error_event(self, error: bytes) -> bytes:
        return frame(error)

    def prompts(self, body: dict[str, Any]) -> int:
        """How many prompts it carries."""
        return 1


def _options_at(raw: bytes) -> tuple[int, int]:
    """From where to where in a body its `stream_options` stand: the last, as parsers have it, where they come twice."""
    found = [member for member in members(raw) if member.name == _OPTIONS][-1]
    return found.start, found.end


def _with_options(raw: bytes, start: int, end: int, usage_options: Mapping[str, bool]) -> bytes:
    """A body whose `stream_options`, which stand from `start` to `end`, ask for that usage, and for whatever else they
    asked for. All else stays byte for byte."""
    options = raw[start:end]
    wanted = [] if options == b"null" else members(options)
    usage = {one.name: options[one.start : one.end] for one in wanted if one.name in (_USAGE, _CONTINUOUS)}
    if usage == dict.fromkeys(usage_options, b"true"):
        return raw
    kept = [options[one.at : one.end] for one in wanted if one.name not in usage]
    asked = b"{" + b",".join([*kept, orjson.dumps(usage_options)[1:-1]]) + b"}"
    return raw[:start] + asked + raw[end:]
