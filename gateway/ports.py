"""The two sides of a gateway as all between them sees them: a client's call, and the workers.

What stands between the edges works on bytes and plain objects, and depends on these protocols, not on who speaks HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from gateway.config.schema import TenantConfig


class ClientGone(Exception):
    """The client closed its connection, or reads so slowly that it was cut off."""


class Call(Protocol):
    """The client's side of one request. Nothing here waits: what is sent is buffered up to a limit, over which the
    client is cut off."""

    @property
    def path(self) -> str: ...

    @property
    def request_id(self) -> str: ...

    @property
    def tenant(self) -> TenantConfig | None:
        """Whose key came with it; None where there is a fault (see `body`)."""

    def body(self) -> bytes:
        """The whole body. Raises the ApiError that stands in its way: no key, too large..."""

    def begin(self, headers: Mapping[str, str]) -> None:
        """Start an answer of events, status 200. Raises ClientGone."""

    def send(self, data: bytes) -> None:
        """Send events. Raises ClientGone."""

    def end(self, data: bytes, *, broken: bool = False) -> None:
        """Send the last events; the answer is over. `broken` closes the connection. Raises ClientGone."""

    def reply(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """A whole answer at once. Raises ClientGone."""


class Answer(Protocol):
    """A worker's answer whose head has arrived."""

    status: int

    async def read(self) -> bytes:
        """The next bytes of the body as they come; empty at its end. Raises UpstreamError."""

    def finish(self) -> None:
        """Nothing more is wanted and nothing more will come: the connection may be used again."""

    def close(self) -> None:
        """Drop the answer, and the connection with it unless it was read to its end. May be repeated."""


class Upstream(Protocol):
    """The workers, by their URL."""

    async def post(self, worker: str, path: str, body: bytes, request_id: str) -> Answer:
        """Send a request, wait for the head of the answer. Raises UpstreamError."""

    async def get(self, worker: str, path: str, patience: float) -> tuple[int, bytes]:
        """A small answer whole. `patience` in seconds. Raises UpstreamError."""

    async def close(self) -> None: ...
