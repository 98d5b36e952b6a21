"""The HTTP edge of the mock engine, at little CPU per token.

A protocol object per connection, because aiohttp's server would cost as much CPU as the gateways under test.
A connection carries one request at a time.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import NamedTuple, Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser


class BadRequest(Exception):
    """The client's fault: `status` and the message of the error body."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    def body(self) -> bytes:
        said = {"error": {"message": str(self), "type": "invalid_request_error"}}
        return json.dumps(said, separators=(",", ":")).encode()


class HttpRequest(NamedTuple):
    """A request that has arrived whole."""

    method: str
    path: str
    request_id: str
    body: bytes


class Service(Protocol):
    """What stands behind the connections. Raises BadRequest."""

    def answer(self, request: HttpRequest, reply: Reply) -> None: ...


class HttpConnection(asyncio.Protocol):
    """Reads requests, hands each to the service, and tells it when the client is gone."""

    def __init__(self, service: Service, transports: set[asyncio.Transport]) -> None:
        self._service = service
        self._transports = transports  # of all that are open
        self._parser = HttpRequestParser(self)
        self._reply: Reply | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transports.add(self._transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._transports.discard(self._transport)
        if self._reply is not None:
            self._reply.on_gone()

    # -- called by httptools -----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._path, self._request_id, self._body = b"", "", bytearray()

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-request-id":
            self._request_id = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        method, path = self._parser.get_method().decode(), self._path.decode()
        request = HttpRequest(method, path, self._request_id, bytes(self._body))
        if self._reply is not None and not self._reply.over:  # two at once
            self._transport.abort()
            return
        reply = self._reply = Reply(self._transport, keep=self._parser.should_keep_alive())
        try:
            self._service.answer(request, reply)
        except BadRequest as error:
            reply.whole(error.status, error.body())


def nothing() -> None:
    """Nobody needs to know."""


class Reply:
    """One answer on its way out. `on_gone` is called when the client leaves; `keep` the connection after the end."""

    def __init__(self, transport: asyncio.Transport, *, keep: bool) -> None:
        self._transport = transport
        self._keep = keep
        self.on_gone: Callable[[], None] = nothing
        self.over = False

    def whole(self, status: int, body: bytes, kind: str = "application/json") -> None:
        head = f"HTTP/1.1 {status} -\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        self._end(head.encode() + body)

    def begin(self, events: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        self._transport.write(head + _chunk(events))

    def send(self, events: bytes) -> None:
        self._transport.write(_chunk(events))

    def end(self, events: bytes) -> None:
        self._end(_chunk(events) + b"0\r\n\r\n")

    def _end(self, data: bytes) -> None:
        self.over, self.on_gone = True, nothing
        self._transport.write(data)
        if not self._keep:
            self._transport.close()


def _chunk(events: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(events), events)
