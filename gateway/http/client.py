"""One connection from a client: its requests are answered one after the other, in the order they came."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from math import inf
from typing import Final, cast, final

from gateway.errors import ApiError, ClientTooSlow
from gateway.http.answers import CONTINUE, last_words
from gateway.http.call import HttpCall
from gateway.http.head import Head, request_id
from gateway.http.presence import Watch
from gateway.http.reader import RequestReader
from gateway.http.site import Site
from gateway.ports import ClientGone

MOST_UNREAD: Final = 64 * 1024
"""Bytes that a client may leave unread before its next request is looked at. An answer under way does not wait for
that: `write` has a limit of its own, over which the client is cut off."""
MOST_AHEAD: Final = 64 * 1024
"""Bytes that a client may send while one of its requests is being answered, before no more is read."""
LINGER_BYTES: Final = 64 * 1024
LINGER_S: Final = 1.0
"""What a client that is refused may still be sending. Closed on at once, its bytes would be answered by a reset, which
can destroy the answer before it is read."""
FLUSH_S: Final = 30.0
"""How long a closed connection may take to carry its last answer."""


@final
class ClientConnection(asyncio.Protocol):
    """Reads requests, starts a task for each, writes what is answered. The task is cancelled when the client is gone.

    A request that is refused before its body was read is answered at once, and the connection then closed.
    """

    def __init__(self, site: Site) -> None:
        self.deadline = inf
        self._site = site
        self._loop = asyncio.get_running_loop()
        self._reader = RequestReader(site.limits.max_head_bytes, site.limits.max_body_bytes)
        self._arrival: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._coming: HttpCall | None = None  # its head was read
        self._call: HttpCall | None = None  # it is being answered
        self._task: asyncio.Task[None] | None = None
        self._ahead = b""
        self._paused = False
        self._full = False
        self._lingering = False
        self._dropped = 0
        self._ended = False
        self._watch: Watch | None = None

    # -- coming in ---------------------------------------------------------------------------------------------

    def arrive(self, arrival: asyncio.Task[None] | None, address: str) -> ApiError | None:
        """Take a place; why there is none. `arrival` goes on until the connection is made."""
        self._arrival = arrival
        self.deadline = self._loop.time() + self._site.limits.head_s
        return self._site.census.enter(self, address)

    def comes_from(self, address: str) -> ApiError | None:
        """Who it is becomes known; why it may not stay."""
        return self._site.census.comes_from(self, address)

    # -- called by the loop ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=MOST_UNREAD)
        if self._arrival is not None:
            self._arrival = None
        elif (refusal := self.arrive(None, name_of(transport.get_extra_info("peername")))) is not None:
            transport.write(last_words(refusal))
            self.close()

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            self._drop(len(data))
        elif self._call is not None or self._ahead or self._full:
            self._ahead += data
            if len(self._ahead) > MOST_AHEAD and self._transport is not None:
                self._paused = True
                self._transport.pause_reading()
                self._look_after()
        else:
            self._read(data)

    def eof_received(self) -> bool:
        """A client of HTTP/1.1 may end its side and wait for the answer. One of 1.0 that ends is taken as gone: it
        must not be sent the interim answer that would tell. With TLS a connection has no half to close."""
        transport = self._transport
        if transport is None or transport.get_extra_info("ssl_object") is not None:
            return False
        if self._call.http10 if self._call is not None else not self._ahead:
            return False
        self._ended = True
        self._look_after()
        return True

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        if self._call is None and (self._ahead or self._ended or self._paused):
            self._go_on()

    def connection_lost(self, error: Exception | None) -> None:
        self.deadline = inf
        self._transport = None
        self._site.census.leave(self)
        if self._watch is not None:
            self._watch.stop()
        for call in (self._coming, self._call):
            if call is not None:
                self.release(call)
        if self._call is not None and not self._call.over and self._task is not None:
            self._task.cancel()

    # -- called by who keeps the time and the places -----------------------------------------------------------

    def expire(self) -> None:
        """The deadline has passed."""
        transport = self._transport
        if transport is None or transport.is_closing():
            self.evict()
        elif self._lingering:
            if transport.get_write_buffer_size():
                self.close()
            else:
                self.evict()
        elif self._coming is not None or self._reader.started:
            what = "body" if self._coming is not None else "head"
            self._spoil(ClientTooSlow("request_timeout", f"The {what} of the request did not come in time."))
        else:
            self.close()

    def evict(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        elif self._arrival is not None:
            self._arrival.cancel()

    def close(self) -> None:
        """Close when what was written is sent. Who does not read it can be made to go before (see Census)."""
        self._lingering = True  # nothing more is read
        self.deadline = self._loop.time() + FLUSH_S
        self._site.census.awaits(self)
        if self._transport is not None:
            self._transport.close()

    # -- called by a call --------------------------------------------------------------------------------------

    def date(self) -> bytes:
        return self._site.date

    def write(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            raise ClientGone
        if transport.get_write_buffer_size() > self._site.limits.max_unsent_bytes:
            transport.abort()  # a client that reads too slowly: what it has not read would only grow
            raise ClientGone
        transport.write(data)

    def release(self, call: HttpCall) -> None:
        self._site.release(call)

    def answered(self, call: HttpCall) -> None:
        self.release(call)
        self._call = None
        self._task = None
        if not call.keep:
            self._hang_up(call)
            return
        self.deadline = self._loop.time() + self._site.limits.idle_s
        self._site.census.awaits(self)
        if (self._ahead or self._ended or self._paused) and not self._full:
            self._loop.call_soon(self._go_on)

    # -- requests ----------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Read what was sent ahead."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        data, self._ahead = self._ahead, b""
        self._read(data)
        if self._call is not None or self._lingering or self._ahead:
            return
        if self._ended:  # what is there of another request will never be whole
            self.close()
        else:
            self._paused = False
            transport.resume_reading()

    def _read(self, data: bytes) -> None:
        reader = self._reader
        fresh = not reader.started
        try:
            while data and self._call is None and not self._lingering:
                data = reader.feed(data)
                if self._coming is None and reader.head is not None:
                    self._meet(reader.head, bool(data))
                if self._coming is not None and self._keeps(self._coming) and reader.done:
                    self._take(self._coming, data)
                    return
        except ApiError as error:
            self._spoil(error)
            return
        if fresh and reader.started and self._coming is None and self._call is None:
            self.deadline = self._loop.time() + self._site.limits.head_s

    def _meet(self, head: Head, more: bool) -> None:
        """A head was read, with or without bytes behind it."""
        call = HttpCall(self, head.request_id, self._reader.keep)
        call.method, call.path, call.key, call.http10 = head.method, head.path, head.key, head.http10
        regular = self._site.census.serves(self)
        fault = self._site.obstacle(call, regular)
        if fault is None and head.has_body:
            fault = self._reader.too_long() or head.obstacle()
        call.fault = fault
        if fault is not None or not regular:
            call.keep = False
        if fault is not None and not self._reader.done:
            self._start(call, unread=True)
            return
        self._coming = call
        if not self._reader.done:
            self._await_body(head, more)

    def _keeps(self, call: HttpCall) -> bool:
        """Whether there is memory for what has come of its body."""
        full = self._site.hold(call, self._reader.size) if self._reader.size > call.held else None
        if full is not None:
            self._spoil(full)
        return full is None

    def _await_body(self, head: Head, more: bool) -> None:
        self.deadline = self._loop.time() + self._site.limits.body_s
        self._site.census.awaits(self)
        if head.expects and not more and self._transport is not None:
            self._transport.write(CONTINUE)

    def _take(self, call: HttpCall, ahead: bytes) -> None:
        """The request is whole."""
        call.payload = self._reader.body()
        self._reader.begin()
        self._coming = None
        self._ahead = ahead
        self._site.census.serves(self)
        self._start(call, unread=False)

    def _start(self, call: HttpCall, *, unread: bool) -> None:
        call.unread = unread
        self._call = call
        self.deadline = inf
        if call.fault is not None and not self._site.serves(call):
            with suppress(ClientGone):
                call.refuse(call.fault)
            return
        self._task = self._loop.create_task(self._answer(call))

    async def _answer(self, call: HttpCall) -> None:
        try:
            await self._site.answer(call)
        except ClientGone:
            pass
        finally:
            if not call.over:
                self.evict()

    def _spoil(self, error: ApiError) -> None:
        """What is being read cannot become a request. As far as its head was understood it is answered as one."""
        call = self._coming or HttpCall(self, request_id(None), keep=False)
        self._coming = None
        self._reader.begin()
        call.fault, call.keep = error, False
        self._site.census.serves(self)
        self._start(call, unread=True)

    # -- the end -----------------------------------------------------------------------------------------------

    def _hang_up(self, call: HttpCall) -> None:
        transport = self._transport
        if transport is None or self._ended or not (call.unread or self._ahead):
            self.close()
            return
        self._ahead = b""
        self._lingering = True
        self._site.census.awaits(self)
        self.deadline = self._loop.time() + LINGER_S
        if transport.can_write_eof():
            transport.write_eof()
        transport.resume_reading()

    def _drop(self, size: int) -> None:
        self._dropped += size
        if self._dropped > LINGER_BYTES:
            self.close()

    def _look_after(self) -> None:
        if self._watch is None and self._transport is not None:
            self._watch = Watch(self._transport, self._show_life)

    def _show_life(self) -> None:
        call, transport = self._call, self._transport
        if call is not None and transport is not None and self._ended and (sign := call.sign_of_life()):
            transport.write(sign)


def name_of(peer: object) -> str:
    """The address in the name of the other side of a socket; empty for a Unix socket."""
    return str(peer[0]) if isinstance(peer, tuple) else ""
