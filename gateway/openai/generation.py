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
        options = section(body, _OPTIONS) if _OPTIONS in body else _NONE
        prompts = self.prompts(body)
        choices = (count(body, "n") or 1) * prompts
        each = next((most for name in self.limits if (most := count(body, name))), self.default_max_tokens)
        return Ask(
            endpoint=self,
            model=model,
            body=raw,
            stream=flag(body, "stream"),
            max_tokens=each * choices if each is not None else None,
            choices=choices,
            raw_tokens=raw_tokens(body),
            prompts=prompts,
            wants_usage=flag(options, _USAGE),
            wants_continuous=flag(options, _CONTINUOUS),
            names_options=_OPTIONS in body,
        )

    def upstream_body(self, ask: Ask, usage_options: Mapping[str, bool]) -> bytes:
        if not ask.stream:
            return ask.body
        if ask.names_options:
            return _with_options(ask.body, usage_options)
        last = ask.body.rindex(b"}")  # it is an object, and has members
        return ask.body[:last] + b',"stream_options":' + orjson.dumps(usage_options) + b"}"

    def reading(self, ask: Ask) -> Reading:
        return EventStream(ask.prompts, ask.wants_usage, ask.wants_continuous) if ask.stream else WholeAnswer()

    def error_event(self, error: bytes) -> bytes:
        return frame(error)

    def prompts(self, body: dict[str, Any]) -> int:
        """How many prompts it carries."""
        return 1


def _with_options(raw: bytes, usage_options: Mapping[str, bool]) -> bytes:
    """A body whose `stream_options` ask for that usage, and for whatever else they asked for. All else stays byte for
    byte; of options that come twice the last count, as parsers have it."""
    found = [member for member in members(raw) if member.name == _OPTIONS][-1]
    options = raw[found.start : found.end]
    wanted = [] if options == b"null" else members(options)
    usage = {name: options[start:end] for name, _, start, end in wanted if name in (_USAGE, _CONTINUOUS)}
    if usage == dict.fromkeys(usage_options, b"true"):
        return raw
    kept = [options[at:end] for name, at, _, end in wanted if name not in usage]
    asked = b"{" + b",".join([*kept, orjson.dumps(usage_options)[1:-1]]) + b"}"
    return raw[: found.start] + asked + raw[found.end :]
