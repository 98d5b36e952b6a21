"""One connection to a worker: what arrives is handed on in the callback that read it."""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from gateway.errors import UpstreamError
from gateway.http.http1 import BadResponse, ResponseParser
from gateway.http.shut import shut
from gateway.ports import Patience, Receiver

PATIENCE_FOR_END = 5.0
"""Seconds that a connection may take to end its answer after all that was wanted of it has come."""


class Outgoing:
    """A request as it is sent: its bytes are here until a byte of the answer is, for it may have to be sent again."""

    def __init__(self, data: bytes) -> None:
        self.data = data


class Owner(Protocol):
    """Who keeps connections: told when one is open, lost, and free for the next request. `now` in loop time."""

    def opened(self, connection: WorkerConnection) -> None: ...

    def lost(self, connection: WorkerConnection) -> None: ...

    def keep(self, connection: WorkerConnection, now: float) -> None: ...


class WorkerConnection:
    """An asyncio protocol for one connection with at most one request at a time.

    `unanswered`: it was closed before a byte of an answer came, and not by us. `unsent`: not even the whole request
    has been handed to the system.
    """

    def __init__(self, owner: Owner, name: str) -> None:
        self.unanswered = False
        self.unsent = False
        self._owner = owner
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._parser = ResponseParser()
        self._transport: asyncio.Transport | None = None
        self._request: Outgoing | None = None
        self._receiver: Receiver | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._idle_s = 0.0
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._told = False
        self._begun = False
        self._ending = False

    async def ask(self, request: Outgoing, receiver: Receiver, patience: Patience) -> None:
        """Send a request and sleep until its answer is over, or wanted no further. Raises UpstreamError, and what
        `receiver` raises; then, and when cancelled, the connection is dropped."""
        self._parser.begin()
        self._request, self._receiver, self._idle_s = request, receiver, patience.idle
        self._told = self._begun = False
        waiter = self._waiter = self._loop.create_future()
        try:
            if self._transport is None or self._transport.is_closing():
                self.unanswered = self.unsent = True
                raise UpstreamError("closed", f"{self._name} closed the connection")
            self._await_until(self._loop.time() + patience.begin)
            self._transport.write(request.data)
            receiver.sent()
            await waiter
        except BaseException:
            if self._waiter is waiter:  # else its answer is over: the connection is kept, or another's by now
                self._receiver = self._waiter = None
                self.drop()
            raise

    def drop(self) -> None:
        """Close at once."""
        self._stop_timer()
        if self._transport is not None and not self._transport.is_closing():
            shut(self._transport)
            self._transport.abort()

    # -- called by the loop ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=0)  # so that `pause_writing` tells what is still here
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        if self._request is not None:
            self._request.data, self._request = b"", None
        try:
            self._parser.feed(data)
        except BadResponse as error:
            if self._receiver is not None and self._parser.buffered():  # what was well until then
                self._hand_on(self._receiver)
            self._fail(UpstreamError("closed", f"{self._name} failed: {error}"))
            self.drop()
            return
        if self._receiver is not None:
            self._hand_on(self._receiver)
        elif self._ending:
            self._parser.take()
            if self._parser.done:
                self._keep()
        else:
            self.drop()  # nothing was asked

    def eof_received(self) -> None:
        """It closes: whatever of the request is still here is not waited for."""
        self.drop()

    def connection_lost(self, error: Exception | None) -> None:
        self._owner.lost(self)
        self._transport = None
        receiver = self._receiver
        if receiver is not None:
            try:
                self._parser.feed_eof()
            except BadResponse:
                self.unanswered = not self._parser.heard
                self._fail(UpstreamError("closed", f"{self._name} closed the connection"))
            else:
                self._hand_on(receiver)
        self._stop_timer()

    def pause_writing(self) -> None:
        """With TLS this is called though nothing is left here."""
        self.unsent = self._transport is not None and self._transport.get_write_buffer_size() > 0

    def resume_writing(self) -> None:
        self.unsent = False

    # -- inside ------------------------------------------------------------------------------------------------

    def _hand_on(self, receiver: Receiver) -> None:
        parser = self._parser
        try:
            if parser.status and not self._told:
                self._told = True
                receiver.head(parser.status)
            enough = parser.buffered() and receiver.data(parser.take())
            if parser.done and not enough:
                receiver.eof()
                enough = True
        except Exception as error:
            self._fail(error)
            self.drop()
            return
        if enough:
            self._finish()
        elif self._begun:
            self._deadline = self._loop.time() + self._idle_s
        elif receiver.begun:
            self._begun = True
            self._await_until(self._loop.time() + self._idle_s)

    def _finish(self) -> None:
        self._receiver = None
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self._parser.done:
            self._keep()
        else:
            self._ending = True
            self._await_until(self._loop.time() + PATIENCE_FOR_END)

    def _keep(self) -> None:
        """The answer has ended: use the connection again."""
        self._ending = False
        if self._transport is None or self._transport.is_closing() or not self._parser.reusable:
            self.drop()
        else:
            self._owner.keep(self, self._loop.time())

    def _fail(self, error: Exception) -> None:
        self._receiver = None
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            # a future takes no StopIteration, and whoever waits must hear of every fault
            waiter.set_exception(RuntimeError(repr(error)) if isinstance(error, StopIteration) else error)

    # -- one timer per connection: it looks at the deadline when it fires, so that moving that costs nothing -----

    def _await_until(self, deadline: float) -> None:
        self._deadline = deadline
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._check_deadline)
        elif self._timer.when() > deadline:
            self._timer.cancel()
            self._timer = self._loop.call_at(deadline, self._check_deadline)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check_deadline(self) -> None:
        self._timer = None
        if self._receiver is None and not self._ending:
            return
        now = self._loop.time()
        if now < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._check_deadline)
            return
        self._ending = False
        self._fail(UpstreamError("timeout", f"{self._name} sent nothing for too long"))
        self.drop()
