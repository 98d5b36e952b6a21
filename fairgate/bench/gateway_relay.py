"""The ceiling of Python, beside which `fairgate bench gateway` measures: a relay that does nothing but HTTP.

A raw `asyncio.Protocol` on both sides, llhttp (httptools) to find where messages end, uvloop: bytes pass as they came,
over kept connections to the one engine. No keys, no queue, no metering, no time-outs, no limits: not for use.

    python -m fairgate.bench.gateway_relay ENGINE_PORT PORT
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from typing import cast

import httptools
import uvloop


class ToEngine(asyncio.Protocol):
    """A connection to the engine: used by one client's request, then kept."""

    client: FromClient | None = None

    def __init__(self, idle: deque[ToEngine]) -> None:
        self._idle = idle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self in self._idle:
            self._idle.remove(self)
        if self.client is not None:
            self.client.transport.abort()

    def ask(self, client: FromClient, request: bytes) -> None:
        self.client = client
        self._parser = httptools.HttpResponseParser(self)
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self.client is None:
            self.transport.abort()
            return
        self.client.transport.write(data)
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        client, self.client = self.client, None
        if client is not None:
            client.engine = None
            self._idle.append(self)


class FromClient(asyncio.Protocol):
    """A client's connection. The next request is expected after the answer."""

    engine: ToEngine | None = None

    def __init__(self, port: int, idle: deque[ToEngine]) -> None:
        self._port = port
        self._idle = idle
        self._parser = httptools.HttpRequestParser(self)
        self._request = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self.engine is not None:
            self.engine.client = None
            self.engine.transport.abort()

    def data_received(self, data: bytes) -> None:
        self._request += data
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        request, self._request = self._request, b""
        if self._idle:
            self._ask(self._idle.pop(), request)
        else:
            asyncio.get_running_loop().create_task(self._ask_anew(request))

    async def _ask_anew(self, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        _, engine = await loop.create_connection(lambda: ToEngine(self._idle), "127.0.0.1", self._port)
        self._ask(engine, request)

    def _ask(self, engine: ToEngine, request: bytes) -> None:
        self.engine = engine
        engine.ask(self, request)


async def _serve(engine: int, port: int) -> None:
    idle: deque[ToEngine] = deque()
    server = await asyncio.get_running_loop().create_server(
        lambda: FromClient(engine, idle), "127.0.0.1", port, backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
