"""What an endpoint of the API is to the hot path: how a body is read, what an engine is sent, how its answer is read.

The hot path knows tokens, not JSON: a request is an `Ask`, an engine's answer a `Reading`. An endpoint without events
or output (embeddings) fits in as well as one with events of its own (responses): the first has `stream` false,
`max_tokens` 0 and its answer in one piece, with its usage; the second ends its stream in its own way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from gateway.errors import EngineRefused, UpstreamError


@dataclass(slots=True)
class Ask:
    """A client's request, understood as far as a proxy must. It keeps the bytes of the body and not what was parsed of
    them, which is many times as large: requests may wait for minutes. Only `body` changes: it is let go of when
    an engine has begun to answer.

    `max_tokens`: the most output tokens of the whole request (all choices of all prompts), None where the body leaves
    it open. `choices`: answers it asks for, over all `prompts`. `raw_tokens`: the uncorrected estimate of its input.
    `wants_usage`, `wants_continuous`: what the client asked to see of it in a stream. `options_at`: from where to where
    in its body the value of `stream_options` stands, where it streams and has any.
    """

    endpoint: Endpoint
    model: str
    body: bytes
    stream: bool
    max_tokens: int | None
    choices: int
    raw_tokens: float
    prompts: int = 1
    wants_usage: bool = False
    wants_continuous: bool = False
    options_at: tuple[int, int] | None = None

    def most_output(self, default: int) -> int:
        """Output tokens that it may produce, `default` for each choice where the body leaves it open."""
        return default * self.choices if self.max_tokens is None else self.max_tokens


class Consumed(Protocol):
    """Tokens seen so far. `input_tokens` is None until the engine has counted them; `cached_tokens` are among them."""

    produced: int
    input_tokens: int | None
    cached_tokens: int


class Reading(Protocol):
    """An engine's answer (status 200) while it is read: first counted, then handed on in the client's form.

    `began`: the engine has begun to answer. `ended`: the answer is complete, whatever the connection does. `fault`:
    what came was no answer; all that came before it was handed out.
    """

    began: bool
    ended: bool
    fault: UpstreamError | EngineRefused | None

    @property
    def meter(self) -> Consumed: ...

    def feed(self, data: bytes) -> bytes:
        """Bytes that came, in order: what the client gets of them at once, which may be nothing."""

    def close(self) -> None:
        """The body is over. Raises UpstreamError where the answer is not."""

    def ending(self) -> bytes:
        """What the client gets after the end: the last events of a stream, else the body."""


class Endpoint(Protocol):
    """One route, the same at the gateway and at its engines. `path` begins with a slash."""

    path: str

    def read(self, raw: bytes) -> Ask:
        """Understand a client's body. Raises Invalid (400), NotFound (404, no model named)."""

    def upstream_body(self, ask: Ask, usage_options: Mapping[str, bool]) -> bytes:
        """The body an engine gets. `usage_options`: what to ask it for where it streams, so that it can be metered."""

    def reading(self, ask: Ask) -> Reading:
        """For an engine's answer to it."""

    def error_event(self, error: bytes) -> bytes:
        """How a stream that had begun tells of an error, whose body is `error`."""
