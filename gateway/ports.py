"""The two sides of a gateway as all between them sees them: a client's call, and the workers.

What stands between the edges works on bytes and plain objects, and depends on these protocols, not on who speaks HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

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

    def release_body(self) -> None:
        """Nobody keeps the body any more: its memory is there for others. May be repeated."""

    def begin(self, headers: Mapping[str, str]) -> None:
        """Start an answer of events, status 200. Raises ClientGone."""

    def send(self, data: bytes) -> None:
        """Send events. Raises ClientGone."""

    def end(self, data: bytes) -> None:
        """Send the last events; the answer is over. Raises ClientGone."""

    def reply(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """A whole answer at once. Raises ClientGone."""


class Receiver(Protocol):
    """Takes an engine's answer as it arrives, each call made in the callback that read it from the socket. Whatever
    these methods raise ends the exchange with the engine, and reaches the one who waits in `post`.

    `begun`: the engine has begun to answer, so that from now on its silence is measured and not its slow start.
    """

    begun: bool

    def sent(self) -> None:
        """The request is on its way, or on its way again: from now on an engine works on it."""

    def head(self, status: int) -> None:
        """The head of the answer has arrived."""

    def data(self, data: bytes) -> bool:
        """More of the body. True: all that is wanted has come. Raises UpstreamError, ClientGone."""

    def eof(self) -> None:
        """The body is over. Raises UpstreamError where the answer is not."""


class Patience(NamedTuple):
    """Seconds: until an engine must have begun to answer, and between two reads from then on."""

    begin: float
    idle: float


class Upstream(Protocol):
    """The workers, by their URL."""

    async def post(
        self,
        worker: str,
        path: str,
        body: bytes,
        request_id: str,
        receiver: Receiver,
        patience: Patience,
        *,
        repeatable: bool,
    ) -> None:
        """Send a request, and sleep until its answer is over or nothing more of it is wanted. `repeatable`: it may be
        sent again where a kept connection turns out to be lost. Raises UpstreamError, and what `receiver` raises."""

    async def get(self, worker: str, path: str, patience: float) -> tuple[int, bytes]:
        """A small answer whole. `patience` in seconds. Raises UpstreamError."""

    async def close(self) -> None: ...
