"""The upstream edge: the only module that speaks HTTP to workers.

A small client of its own, one protocol object per connection, because a general one costs about 80 us a request.
Connections are kept open and used last in, first out, but only for as long as no engine is known to close idle ones by
itself (uvicorn: 5 s). So a lost connection means a lost request, and nothing is sent twice in here.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from typing import cast
from urllib.parse import urlsplit

from gateway.config.schema import Timeouts, WorkerConfig
from gateway.errors import UpstreamError
from gateway.http.connection import WorkerConnection
from gateway.ports import Answer

MOST_IDLE = 2.0
"""Seconds after which a kept connection is not used again."""


class HttpUpstream:
    """Keeps connections to every worker open. Workers are named by their URL."""

    def __init__(self, workers: Iterable[WorkerConfig], timeouts: Timeouts) -> None:
        self._workers = {worker.url: _Address(worker) for worker in workers}
        self._timeouts = timeouts

    async def post(self, worker: str, path: str, body: bytes, request_id: str) -> Answer:
        address = self._workers[worker]
        more = b"Content-Type: application/json\r\nx-request-id: %b\r\nContent-Length: %d\r\n"
        head = address.head("POST", path) + more % (request_id.encode("ascii"), len(body))
        return await self._ask(address, head + b"\r\n" + body)

    async def get(self, worker: str, path: str, patience: float) -> tuple[int, bytes]:
        address = self._workers[worker]
        parts = []
        try:
            async with asyncio.timeout(patience):
                answer = await self._ask(address, address.head("GET", path) + b"\r\n")
                try:
                    while part := await answer.read():
                        parts.append(part)
                finally:
                    answer.close()
        except TimeoutError:
            raise UpstreamError("timeout", f"{worker} did not answer within {patience:g} s") from None
        return answer.status, b"".join(parts)

    async def close(self) -> None:
        for address in self._workers.values():
            address.close()

    async def _ask(self, address: _Address, request: bytes) -> HttpAnswer:
        connection = address.kept(asyncio.get_running_loop().time()) or await self._connect(address)
        connection.begin(request)
        try:
            await connection.head()
        except BaseException:
            connection.drop()
            raise
        return HttpAnswer(connection, self._timeouts.idle_s)

    async def _connect(self, address: _Address) -> WorkerConnection:
        try:
            async with asyncio.timeout(self._timeouts.connect_s):
                return await address.connect()
        except (OSError, TimeoutError):
            raise UpstreamError("connect", f"cannot connect to {address.url}", reached=False) from None


class HttpAnswer:
    def __init__(self, connection: WorkerConnection, idle: float) -> None:
        self.status = connection.parser.status
        self._connection = connection
        self._idle = idle
        self._over = False

    async def read(self) -> bytes:
        return await self._connection.read(self._idle)

    def finish(self) -> None:
        if not self._over:
            self._over = True
            self._connection.keep_when_done()

    def close(self) -> None:
        if self._over:
            return
        self._over = True
        if self._connection.parser.done:
            self._connection.keep_when_done()
        else:
            self._connection.drop()


class _Address:
    """A worker's address, the head of every request to it, and its open connections."""

    def __init__(self, worker: WorkerConfig) -> None:
        parts = urlsplit(worker.url)
        self.url = worker.url
        self._host = cast(str, parts.hostname)
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._ssl else 80)
        self._prefix = parts.path
        key = f"Authorization: Bearer {worker.api_key}\r\n" if worker.api_key else ""
        self._fields = f"Host: {parts.netloc.rpartition('@')[2]}\r\n{key}"
        self._heads: dict[tuple[str, str], bytes] = {}
        self._kept: dict[WorkerConnection, float] = {}  # -> when it was last used
        self._all: set[WorkerConnection] = set()

    def head(self, method: str, path: str) -> bytes:
        """Everything up to the fields that differ from request to request."""
        if (head := self._heads.get((method, path))) is None:
            head = f"{method} {self._prefix}{path} HTTP/1.1\r\n{self._fields}".encode("latin-1")
            self._heads[method, path] = head
        return head

    async def connect(self) -> WorkerConnection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: WorkerConnection(self, self.url), self._host, self._port, ssl=self._ssl
        )
        return connection

    def kept(self, now: float) -> WorkerConnection | None:
        """The connection used last, unless that is too long ago; then the others are stale too."""
        if not self._kept:
            return None
        connection, used = self._kept.popitem()
        if now - used <= MOST_IDLE:
            return connection
        for stale in (connection, *self._kept):
            stale.drop()
        self._kept.clear()
        return None

    def keep(self, connection: WorkerConnection, now: float) -> None:
        self._kept[connection] = now

    def opened(self, connection: WorkerConnection) -> None:
        self._all.add(connection)

    def lost(self, connection: WorkerConnection) -> None:
        self._all.discard(connection)
        self._kept.pop(connection, None)

    def close(self) -> None:
        for connection in list(self._all):
            connection.drop()
