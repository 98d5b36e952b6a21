"""A bare connection to a server, for what is asked so often that a client library would cost more than the call.

Commands go out as they are sent and are answered in their order: that is all of the protocol. An answer is handed over
in the callback in which its last byte arrives, so nobody has to be woken for it.

A command may have been carried out although no answer came. A connection on which one was late is closed, so that a
late answer is never taken for that of another command; those sent after it fail with it. Example: A and B are on their
way, A within 1 s; at 1 s the connection is closed, and who sent A and who sent B both hear "no answer in time".
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, cast, final

from hiredis import HiredisError, Reader, pack_command

from gateway.store.errors import StoreError

OnAnswer = Callable[[Any], None]
"""Told the answer, once: str, int, None or a list of those; or the StoreError that is there in its place."""

_NOTHING = object()


class _Sent(NamedTuple):
    on_answer: OnAnswer
    deadline: float


def command(*words: str | int) -> bytes:
    """As it is sent."""
    return cast(bytes, pack_command(words))  # type: ignore[arg-type] # its stub means tuples of one


@final
class Wire:
    """The protocol of one connection (in the loop's sense), RESP2. Make it on the loop that will run it."""

    def __init__(self) -> None:
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = Reader(replyError=StoreError, encoding="utf-8", errors="replace", notEnoughData=_NOTHING)
        self._sent: deque[_Sent] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._checks_at = 0.0

    # -- for who sends -----------------------------------------------------------------------------------------

    def send(self, data: bytes, within: float, on_answer: OnAnswer) -> None:
        """`data` is a `command`, `within` in seconds. On a wire that is closed `on_answer` is told so at once."""
        if self._transport is None or self.closed:
            on_answer(StoreError("the connection is closed"))
            return
        deadline = self._loop.time() + within
        self._sent.append(_Sent(on_answer, deadline))
        self._transport.write(data)
        if self._timer is None or self._checks_at > deadline:
            self._check_at(deadline)

    async def ask(self, data: bytes, within: float) -> Any:
        """The answer. Raises StoreError."""
        found: asyncio.Future[Any] = self._loop.create_future()
        self.send(data, within, lambda answer: None if found.done() else found.set_result(answer))
        answer = await found
        if isinstance(answer, StoreError):
            raise answer
        return answer

    def close(self, reason: str = "the connection was closed") -> None:
        """At once. Who waits for an answer is told `reason`."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._sent:
            self._sent.popleft().on_answer(StoreError(reason))

    # -- called by the loop ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self.closed:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while self._sent and (answer := self._reader.gets()) is not _NOTHING:
                self._sent.popleft().on_answer(answer)
        except HiredisError:
            self.close("the server does not speak RESP")
        if not self._sent and self._reader.has_data():
            self.close("the server said more than it was asked")

    def eof_received(self) -> None:
        """The transport closes itself."""

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self.close("the server closed the connection" if error is None else str(error) or type(error).__name__)

    def pause_writing(self) -> None:
        """What is on its way is bounded by who sends."""

    def resume_writing(self) -> None: ...

    # -- inside ------------------------------------------------------------------------------------------------

    def _check_at(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._checks_at = deadline
        self._timer = self._loop.call_at(deadline, self._check)

    def _check(self) -> None:
        """One timer for all commands: it looks when the oldest is due, so that an answer moves nothing."""
        self._timer = None
        if not self._sent:
            return
        deadline = self._sent[0].deadline
        if deadline <= self._loop.time():
            self.close("no answer in time")
        else:
            self._check_at(deadline)
