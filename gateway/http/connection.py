"""One connection to a worker."""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from gateway.errors import UpstreamError
from gateway.http.http1 import BadResponse, ResponseParser

MOST_UNREAD = 1024 * 1024
"""Bytes of an answer that may wait in memory before the worker is told to slow down."""
PATIENCE_FOR_END = 5.0
"""Seconds that a connection may take to end its answer after the last event."""


class Owner(Protocol):
    """Who keeps connections: told when one is open, lost, and free for the next request. `now` in loop time."""

    def opened(self, connection: WorkerConnection) -> None: ...

    def lost(self, connection: WorkerConnection) -> None: ...

    def keep(self, connection: WorkerConnection, now: float) -> None: ...


class WorkerConnection(asyncio.Protocol):
    """One connection: at most one request at a time, at most one reader that waits."""

    def __init__(self, owner: Owner, name: str) -> None:
        self.parser = ResponseParser()
        self._owner = owner
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._lost: str | None = None
        self._timed_out = False
        self._unread = 0
        self._keeping = False

    # -- called by the loop ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed(data)
        except BadResponse as error:
            self._break(str(error))
            return
        self._unread += len(data)
        if self._unread > MOST_UNREAD and self._transport is not None:
            self._transport.pause_reading()
        if self._keeping:
            self._keep()
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self._owner.lost(self)
        self._transport = None
        if self._lost is None:
            try:
                self.parser.feed_eof()
            except BadResponse:
                self._lost = "closed the connection"
        self._stop_timer()
        self._wake()

    # -- called by an answer -----------------------------------------------------------------------------------

    def begin(self, request: bytes) -> None:
        self.parser.begin()
        self._unread = 0
        if self._transport is not None:
            self._transport.write(request)

    async def head(self) -> None:
        """Wait for the head of the answer; how long is the caller's affair. Raises UpstreamError."""
        while not self.parser.status:
            self._raise_if_lost()
            await self._wait()

    async def read(self, patience: float) -> bytes:
        parser = self.parser
        while not parser.buffered():
            if parser.done:
                return b""
            self._raise_if_lost()
            self._start_timer(patience)
            await self._wait()
        if self._unread > MOST_UNREAD and self._transport is not None:
            self._transport.resume_reading()
        self._unread = 0
        return parser.take()

    def keep_when_done(self) -> None:
        """Use the connection again as soon as the answer has ended, which it must do soon."""
        self._keeping = True
        self._stop_timer()
        self._keep()
        if self._keeping:
            self._start_timer(PATIENCE_FOR_END)

    def drop(self) -> None:
        """Close at once."""
        self._stop_timer()
        if self._transport is not None:
            self._transport.abort()

    # -- inside ------------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        if not self.parser.done:
            return
        self._keeping = False
        self._stop_timer()
        if self._transport is None or self._transport.is_closing() or not self.parser.reusable:
            self.drop()
        else:
            self._owner.keep(self, self._loop.time())

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _raise_if_lost(self) -> None:
        if self._lost is None and self._transport is None and not self.parser.done:
            self._lost = "closed the connection"
        if self._lost is not None:
            kind = "timeout" if self._timed_out else "closed"
            raise UpstreamError(kind, f"{self._name} {self._lost}")

    def _break(self, why: str) -> None:
        self._lost = why
        self.drop()
        self._wake()

    def _start_timer(self, patience: float) -> None:
        """One timer per answer: it looks at the deadline when it fires, so that moving the deadline costs nothing."""
        self._deadline = self._loop.time() + patience
        if self._timer is None:
            self._timer = self._loop.call_at(self._deadline, self._check_deadline)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check_deadline(self) -> None:
        self._timer = None
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._check_deadline)
        elif self._keeping or self._waiter is not None:
            self._timed_out = True
            self._break("sent nothing for too long")
