"""An engine that writes bytes: as fast as a socket, cut where a test wants it cut, ended as a test wants it ended.

`Engine` (engine.py) knows what an engine says; this one knows how bytes arrive. What a request gets is decided by
`answer`, a function of what was asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import orjson
from httptools import HttpRequestParser

KEEP, CLOSE, ABORT, HOLD = "keep", "close", "abort", "hold"
Ending = Literal["keep", "close", "abort", "hold"]


@dataclass(slots=True)
class Asked:
    """One request as it came. `number`: how many came before it over the same connection."""

    path: str
    headers: dict[bytes, bytes]
    body: bytes
    number: int

    @property
    def request_id(self) -> str:
        return self.headers[b"x-request-id"].decode()

    def json(self) -> dict[str, Any]:
        return dict(orjson.loads(self.body))


@dataclass(slots=True)
class Answer:
    """`pieces` are written one by one, each in a turn of the loop of its own, `written` counts them. `then` the
    connection is kept (and closed when nothing came for `close_after` seconds, unless that is None), closed (all that
    was written arrives), aborted, or held open without a word more."""

    pieces: Sequence[bytes]
    then: Ending = "keep"
    close_after: float | None = None
    written: int = field(default=0)


def http(status: int, body: bytes, content_type: str = "application/json") -> bytes:
    """A whole response."""
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def chunked(parts: Sequence[bytes]) -> list[bytes]:
    """A response of events in chunks, the head first; the last is the chunk that ends it."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return [head, *(b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part), b"0\r\n\r\n"]


def event(data: dict[str, Any] | bytes) -> bytes:
    return b"data: " + (data if isinstance(data, bytes) else orjson.dumps(data)) + b"\n\n"


class _Connection(asyncio.Protocol):
    def __init__(self, engine: RawEngine) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._parser = HttpRequestParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._url = b""
        self._body: list[bytes] = []
        self._number = 0
        self._closing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._engine.connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._closing is not None:
            self._closing.cancel()
        self._engine.read(self, data)
        if not self.transport.is_closing():
            self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._engine.connections.discard(self)

    def on_message_begin(self) -> None:
        self._url, self._headers, self._body = b"", {}, []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        asked = Asked(self._url.decode(), self._headers, b"".join(self._body), self._number)
        self._number += 1
        self._write_on(self._engine.respond(asked))

    def _write_on(self, answer: Answer) -> None:
        """The next piece, and in the next turn of the loop the one after it."""
        if self.transport.is_closing():
            return
        if answer.written < len(answer.pieces):
            self.transport.write(answer.pieces[answer.written])
            answer.written += 1
            self._loop.call_soon(self._write_on, answer)
        elif answer.then == CLOSE:
            self.transport.close()
        elif answer.then == ABORT:
            self.transport.abort()
        elif answer.then == KEEP and answer.close_after is not None:
            self._closing = self._loop.call_later(answer.close_after, self.transport.close)


class RawEngine:
    """Listens on a free port once started. `asked` has what came, probes left out. `read` sees each read before it is
    parsed. It takes room and url as `Engine` does, so that a house can be built around it."""

    def __init__(self, answer: Callable[[Asked], Answer], metrics: str = "") -> None:
        self.answer = answer
        self.metrics = metrics
        self.asked: list[Asked] = []
        self.connections: set[_Connection] = set()
        self.read: Callable[[_Connection, bytes], None] = lambda connection, data: None
        self.port = 0
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> RawEngine:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self.connections):
            connection.transport.abort()

    def respond(self, asked: Asked) -> Answer:
        if asked.path == "/health":
            return Answer([http(200, b"{}")])
        if asked.path == "/metrics":
            return Answer([http(200, self.metrics.encode(), "text/plain")])
        self.asked.append(asked)
        return self.answer(asked)
