"""The server edge: the only module that speaks HTTP to clients.

Built on aiohttp's low-level server, which costs less per request than an application with a router. A handler is
cancelled when its client disconnects; that is how the hot path learns of it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Container, Mapping
from random import getrandbits

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from gateway.config.schema import Limits
from gateway.errors import ApiError, BodyTooLarge, MethodNotAllowed, NotFound
from gateway.http.pages import Page
from gateway.ports import ClientGone

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
NEVER_WAIT = 2**30
"""High-water mark of a stream's write buffer. `send` has a limit of its own, which cuts the client off instead."""
BACKLOG = 4096
"""A listen backlog of the usual 128 stalls 256 simultaneous clients for a second (SYN retransmission)."""

Serve = Callable[["HttpCall"], Awaitable[None]]


class HttpCall:
    """One client request as the hot path sees it."""

    def __init__(self, request: web.BaseRequest, limits: Limits) -> None:
        self.path = request.path
        self.key = _key(request)
        self.request_id = _request_id(request.headers.get("x-request-id"))
        self.response: web.StreamResponse | None = None
        self._request = request
        self._limits = limits

    async def body(self) -> bytes:
        limit = self._limits.max_body_bytes
        if (self._request.content_length or 0) > limit:
            raise _too_large(limit)
        try:
            return await self._request.read()
        except web.HTTPRequestEntityTooLarge:
            raise _too_large(limit) from None
        except web.RequestPayloadError as error:
            raise ClientGone from error

    async def begin(self, headers: Mapping[str, str]) -> None:
        self.response = _EventResponse(headers={**headers, **_EVENTS})
        if (transport := self._request.transport) is None:
            raise ClientGone
        transport.set_write_buffer_limits(high=NEVER_WAIT)
        try:
            await self.response.prepare(self._request)
        except ConnectionError as error:
            raise ClientGone from error

    async def send(self, data: bytes) -> None:
        assert self.response is not None
        transport = self._request.transport
        if transport is None or transport.get_write_buffer_size() > self._limits.max_unsent_bytes:
            self._abort()
        try:
            await self.response.write(data)
        except ConnectionError as error:
            raise ClientGone from error

    async def end(self, data: bytes, *, broken: bool = False) -> None:
        assert self.response is not None
        if broken:
            self.response.force_close()
        try:
            await self.response.write_eof(data)
        except ConnectionError as error:
            raise ClientGone from error

    async def reply(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.response = web.Response(status=status, body=body, content_type="application/json", headers=headers)

    def _abort(self) -> None:
        """Cut off a client that reads too slowly: what it has not read would only grow."""
        if self._request.transport is not None:
            self._request.transport.abort()
        raise ClientGone


_EVENTS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class _EventResponse(web.StreamResponse):
    """Sends its head together with the first events, which are there when it begins: one write less a request."""

    _send_headers_immediately = False


class HttpServer:
    """Listens, and sends each request to the hot path (POST to one of `endpoints`) or to a page (GET)."""

    def __init__(self, serve: Serve, endpoints: Container[str], pages: Mapping[str, Page], limits: Limits) -> None:
        self._serve = serve
        self._endpoints = endpoints
        self._pages = pages
        self._limits = limits
        self._runner: web.ServerRunner | None = None

    async def start(self, host: str, port: int) -> int:
        """Begin to listen. Returns the port (another than asked for when that was 0). Raises OSError."""
        server = web.Server(self._handle, request_factory=self._request, handler_cancellation=True, access_log=None)
        self._runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, backlog=BACKLOG)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def close(self) -> None:
        """Stop listening, close every connection."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        page = self._pages.get(request.path)
        if page is None and request.path not in self._endpoints:
            return _refusal(request, NotFound("unknown_url", f"Unknown URL: {request.method} {request.path}"))
        expected = "GET" if page is not None else "POST"
        if request.method != expected and not (page is not None and request.method == "HEAD"):
            message = f"{request.path} takes {expected}, not {request.method}."
            return _refusal(request, MethodNotAllowed("method_not_allowed", message, headers={"Allow": expected}))
        if page is not None:
            return _page(request, page)
        call = HttpCall(request, self._limits)
        await self._serve(call)
        if call.response is None:  # the client is gone, and with it the place to answer to
            raise ConnectionResetError
        return call.response

    def _request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        loop = asyncio.get_running_loop()
        return web.BaseRequest(
            message, payload, protocol, writer, task, loop, client_max_size=self._limits.max_body_bytes
        )


def _page(request: web.BaseRequest, page: Page) -> web.Response:
    try:
        status, content_type, body = page(_key(request))
    except ApiError as error:
        return _refusal(request, error)
    return web.Response(status=status, body=body, headers={"Content-Type": content_type})


def _refusal(request: web.BaseRequest, error: ApiError) -> web.Response:
    headers = {"x-request-id": _request_id(request.headers.get("x-request-id")), **error.headers}
    return web.Response(status=error.status, body=error.body(), content_type="application/json", headers=headers)


def _key(request: web.BaseRequest) -> str | None:
    return bearer(request.headers.get("Authorization"), request.headers.get("x-api-key"))


def bearer(authorization: str | None, x_api_key: str | None) -> str | None:
    """The key a client sent: `Authorization: Bearer KEY`, else `x-api-key: KEY`."""
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return x_api_key


def _request_id(sent: str | None) -> str:
    return sent if sent is not None and _SANE_ID.fullmatch(sent) else f"{getrandbits(128):032x}"


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge("body_too_large", f"The body is larger than {limit} bytes, the limit here.")
