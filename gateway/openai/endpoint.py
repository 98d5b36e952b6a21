"""What an endpoint of the API is to the hot path: how a body is read, what an engine is sent, how its answer is read.

The hot path knows tokens, not JSON: a request is an `Ask`, an engine's answer a `MeteredAnswer`. An endpoint without
events or output (embeddings) fits in as well as one with events of its own (responses): the first has `stream` false,
`max_tokens` 0 and one read, which brings the body with its usage; the second ends its stream in its own way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.ports import Answer


@dataclass(frozen=True, slots=True)
class Ask:
    """A client's request, understood as far as a proxy must; everything else in `body` passes through untouched.

    `max_tokens`: the most output tokens of the whole request (all choices of all prompts), None where the body leaves
    it open. `choices`: answers it asks for, over all prompts. `raw_tokens`: the uncorrected estimate of its input.
    """

    endpoint: Endpoint
    model: str
    body: dict[str, Any]
    stream: bool
    max_tokens: int | None
    choices: int
    raw_tokens: float

    def most_output(self, default: int) -> int:
        """Output tokens that it may produce, `default` for each choice where the body leaves it open."""
        return default * self.choices if self.max_tokens is None else self.max_tokens


class Consumed(Protocol):
    """Tokens seen so far. `input_tokens` is None until the engine has counted them; `cached_tokens` are among them."""

    produced: int
    input_tokens: int | None
    cached_tokens: int


class MeteredAnswer(Protocol):
    """An engine's answer (status 200) while it is read: first counted, then handed on in the client's form."""

    @property
    def meter(self) -> Consumed: ...

    async def read(self) -> bytes | None:
        """Read on, and return what the client gets of it at once, which may be nothing; None at the end. Raises
        UpstreamError when the answer breaks off or holds an error, after everything that came before was handed out."""

    def ending(self) -> bytes:
        """What the client gets after the end: the last events of a stream, else the body."""


class Endpoint(Protocol):
    """One route, the same at the gateway and at its engines. `path` begins with a slash."""

    path: str

    def read(self, raw: bytes) -> Ask:
        """Understand a client's body. Raises Invalid (400), NotFound (404, no model named)."""

    def upstream_body(self, ask: Ask, usage_options: Mapping[str, bool]) -> bytes:
        """The body an engine gets. `usage_options`: what to ask it for where it streams, so that it can be metered."""

    def metered(self, ask: Ask, answer: Answer) -> MeteredAnswer:
        """An engine's answer to it, not yet read."""

    def error_event(self, error: bytes) -> bytes:
        """How a stream that had begun tells of an error, whose body is `error`."""
