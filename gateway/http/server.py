"""The server edge: the only module that speaks HTTP to clients.

A request is answered by a task of its own (`serve`), which is cancelled when its client is gone; that is how the hot
path learns of it. What is answered goes straight to the transport: nothing here waits for a client to read.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable, Container, Mapping
from random import getrandbits
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from gateway.config.schema import Limits, TenantConfig
from gateway.errors import ApiError, BodyTooLarge, Invalid, MethodNotAllowed, NotFound
from gateway.http.pages import Page
from gateway.ports import ClientGone

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
NEVER_WAIT = 2**30
"""High-water mark of a connection's write buffer. `send` has a limit of its own, which cuts the client off instead."""
BACKLOG = 4096
"""A listen backlog of the usual 128 stalls 256 simultaneous clients for a second (SYN retransmission)."""
MOST_PIPELINED = 8
"""Requests that may wait on a connection for the answer to another, before no more is read."""
REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed"}

Serve = Callable[["HttpCall"], Awaitable[None]]
Authenticate = Callable[[str | None], TenantConfig]

_EVENTS = (
    b"Content-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"
    b"Transfer-Encoding: chunked\r\n"
)


class HttpCall:
    """One client request as the hot path sees it (see ports.Call)."""

    def __init__(self, connection: ClientConnection, method: str, path: str, limits: Limits) -> None:
        self.method = method
        self.path = path
        self.request_id = ""
        self.key: str | None = None
        self.tenant: TenantConfig | None = None
        self.fault: ApiError | None = None
        self.keep_alive = True
        self.parts: list[bytes] = []
        self.size = 0
        self.task: asyncio.Task[None] | None = None
        self._connection = connection
        self._limits = limits
        self._head: bytes | None = None

    def body(self) -> bytes:
        if self.fault is not None:
            raise self.fault
        return self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)

    def begin(self, headers: Mapping[str, str]) -> None:
        self._head = _head(200, headers, self.keep_alive) + _EVENTS + b"\r\n"

    def send(self, data: bytes) -> None:
        self._write(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self, data: bytes, *, broken: bool = False) -> None:
        chunk = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        if broken:
            self.keep_alive = False
        self._write(chunk + b"0\r\n\r\n")
        self._connection.over(self)

    def reply(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        if self.fault is not None:
            self.keep_alive = False
        head = _head(status, headers, self.keep_alive)
        fields = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        self._head = None
        self._write(head + fields + body)
        self._connection.over(self)

    def page(self, status: int, content_type: str, body: bytes) -> None:
        head = _head(status, {"Content-Type": content_type}, self.keep_alive)
        shown = b"" if self.method == "HEAD" else body
        self._write(head + b"Content-Length: %d\r\n\r\n" % len(body) + shown)
        self._connection.over(self)

    def _write(self, data: bytes) -> None:
        if self._head is not None:
            data, self._head = self._head + data, None
        self._connection.write(data, self._limits.max_unsent_bytes)


class ClientConnection:
    """One connection: requests are answered one after the other, in the order they came."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = HttpRequestParser(self)
        self._calls: deque[HttpCall] = deque()
        self._call: HttpCall | None = None
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._closing = False

    # -- called by the loop ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=NEVER_WAIT)
        self._server.connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._refuse(Invalid("bad_request", f"This is not a usable HTTP request: {error}."))
        if len(self._calls) > MOST_PIPELINED and self._transport is not None:
            self._transport.pause_reading()  # then its end goes unnoticed too, until it has been answered some

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._server.connections.discard(self)
        for call in self._calls:
            if call.task is not None:
                call.task.cancel()
        self._calls.clear()

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    # -- called by httptools -----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = {}

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        headers = self._headers
        method = self._parser.get_method().decode("latin-1")
        path = self._url.partition(b"?")[0].decode("latin-1")
        call = self._call = HttpCall(self, method, path, self._server.limits)
        call.keep_alive = self._parser.should_keep_alive()
        call.request_id = _request_id(headers.get(b"x-request-id"))
        call.key = bearer(_text(headers.get(b"authorization")), _text(headers.get(b"x-api-key")))
        call.fault = self._server.fault_of(call)
        if call.fault is None and int(headers.get(b"content-length", b"0")) > self._server.limits.max_body_bytes:
            call.fault = _too_large(self._server.limits.max_body_bytes)
        if call.fault is not None:
            self._take(call)

    def on_body(self, body: bytes) -> None:
        call = self._call
        if call is None or call.fault is not None:
            return
        call.parts.append(body)
        call.size += len(body)
        if call.size > self._server.limits.max_body_bytes:
            call.fault = _too_large(self._server.limits.max_body_bytes)
            self._take(call)

    def on_message_complete(self) -> None:
        if self._call is not None and self._call.fault is None:
            self._take(self._call)
        self._call = None

    # -- calls -------------------------------------------------------------------------------------------------

    def write(self, data: bytes, most_unsent: int) -> None:
        """Raises ClientGone."""
        transport = self._transport
        if transport is None:
            raise ClientGone
        if transport.get_write_buffer_size() > most_unsent:
            transport.abort()  # a client that reads too slowly: what it has not read would only grow
            raise ClientGone
        transport.write(data)

    def over(self, call: HttpCall) -> None:
        """The answer to the call in turn is complete."""
        self._calls.popleft()
        if self._transport is None:
            return
        if not call.keep_alive:
            self._closing = True
            self._transport.close()
        elif self._calls:
            self._start(self._calls[0])
        else:
            self._transport.resume_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _take(self, call: HttpCall) -> None:
        self._calls.append(call)
        if len(self._calls) == 1:
            self._start(call)

    def _start(self, call: HttpCall) -> None:
        page = self._server.pages.get(call.path)
        if page is not None and call.fault is None:
            call.task = self._loop.create_task(self._answer_page(call, page))
        elif call.path in self._server.endpoints:
            call.task = self._loop.create_task(self._server.serve(call))  # type: ignore[arg-type]
        else:
            assert call.fault is not None
            call.reply(call.fault.status, call.fault.body(), {"x-request-id": call.request_id, **call.fault.headers})

    async def _answer_page(self, call: HttpCall, page: Page) -> None:
        try:
            call.page(*await page(call.key))
        except ApiError as error:
            call.reply(error.status, error.body(), {"x-request-id": call.request_id, **error.headers})
        except ClientGone:
            return

    def _refuse(self, error: ApiError) -> None:
        self._closing = True
        call = HttpCall(self, "", "", self._server.limits)
        call.fault, call.request_id = error, _request_id(None)
        self._take(call)


class HttpServer:
    """Listens, and sends each request to the hot path (POST to one of `endpoints`) or to a page (GET)."""

    def __init__(
        self,
        serve: Serve,
        authenticate: Authenticate,
        endpoints: Container[str],
        pages: Mapping[str, Page],
        limits: Limits,
    ) -> None:
        self.serve = serve
        self.endpoints = endpoints
        self.pages = pages
        self.limits = limits
        self.connections: set[ClientConnection] = set()
        self._authenticate = authenticate
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int, *, reuse_port: bool = False) -> int:
        """Begin to listen. Returns the port (another than asked for when that was 0). Raises OSError.
        `reuse_port`: other processes of ours listen there too; the system gives each connection to one of them."""
        loop = asyncio.get_running_loop()
        factory = cast(Callable[[], asyncio.Protocol], lambda: ClientConnection(self))
        self._server = await loop.create_server(factory, host, port, backlog=BACKLOG, reuse_port=reuse_port)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening, close every connection."""
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.close()

    def fault_of(self, call: HttpCall) -> ApiError | None:
        """What stands in the way of a call, as far as its head tells; else `call.tenant` is known."""
        page = call.path in self.pages
        if not page and call.path not in self.endpoints:
            return NotFound("unknown_url", f"Unknown URL: {call.method} {call.path}")
        expected = "GET" if page else "POST"
        if call.method != expected and not (page and call.method == "HEAD"):
            message = f"{call.path} takes {expected}, not {call.method}."
            return MethodNotAllowed("method_not_allowed", message, headers={"Allow": expected})
        if not page:
            try:
                call.tenant = self._authenticate(call.key)
            except ApiError as error:
                return error
        return None


def _head(status: int, headers: Mapping[str, str], keep_alive: bool) -> bytes:
    fields = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    close = "" if keep_alive else "Connection: close\r\n"
    return f"HTTP/1.1 {status} {REASONS.get(status, 'Unknown')}\r\n{fields}{close}".encode("latin-1")


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "surrogateescape")


def bearer(authorization: str | None, x_api_key: str | None) -> str | None:
    """The key a client sent: `Authorization: Bearer KEY`, else `x-api-key: KEY`."""
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return x_api_key


def _request_id(sent: bytes | None) -> str:
    text = "" if sent is None else sent.decode("latin-1")
    return text if _SANE_ID.fullmatch(text) else f"{getrandbits(128):032x}"


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge("body_too_large", f"The body is larger than {limit} bytes, the limit here.")
