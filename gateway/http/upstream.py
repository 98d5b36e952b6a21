"""The upstream edge: the only module that speaks HTTP to workers.

A small client of its own, one protocol object per connection, because a general one costs about 80 us a request.
Connections are kept open and used last in, first out, for `timeouts.kept_s`, which should be less than the time for
which engines keep idle ones (uvicorn: 5 s). Even so an engine may close one in the moment in which it is used.

What is sent twice. A request over a kept connection that is closed before a byte of an answer came is sent once more,
over a new one, in two cases: the engine closed while part of the request was still here, so it cannot have served it;
or the request is `repeatable`: its engine works for the one who is connected and keeps nothing, so the worst is some
work for a connection that it knows to be closed. A connection that was made for the request is not a kept one: what is
lost there is the caller's affair.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable
from typing import cast
from urllib.parse import urlsplit

from gateway.config.schema import Timeouts, WorkerConfig
from gateway.errors import UpstreamError
from gateway.http.connection import Outgoing, WorkerConnection
from gateway.ports import Patience, Receiver

MOST_SMALL_BYTES = 64 * 1024 * 1024


class HttpUpstream:
    """Keeps connections to every worker open. Workers are named by their URL."""

    def __init__(self, workers: Iterable[WorkerConfig], timeouts: Timeouts) -> None:
        self._workers = {worker.url: _Address(worker, timeouts.kept_s) for worker in workers}
        self._timeouts = timeouts
        self._loop = asyncio.get_running_loop()

    async def post(
        self,
        worker: str,
        path: str,
        body: bytes,
        request_id: str,
        receiver: Receiver,
        patience: Patience,
        *,
        repeatable: bool,
    ) -> None:
        address = self._workers[worker]
        more = b"Content-Type: application/json\r\nx-request-id: %b\r\nContent-Length: %d\r\n\r\n"
        head = address.head("POST", path) + more % (request_id.encode("ascii"), len(body))
        request = Outgoing(head + body)
        body = b""  # this call lasts as long as the answer; the request is let go of when that has begun
        await self._ask(address, request, receiver, patience, repeatable)

    async def get(self, worker: str, path: str, patience: float) -> tuple[int, bytes]:
        address = self._workers[worker]
        answer = _SmallAnswer()
        try:
            async with asyncio.timeout(patience):
                within = Patience(patience, patience)
                request = Outgoing(address.head("GET", path) + b"\r\n")
                await self._ask(address, request, answer, within, repeatable=True)
        except TimeoutError:
            raise UpstreamError("timeout", f"{worker} did not answer within {patience:g} s") from None
        return answer.status, b"".join(answer.parts)

    async def close(self) -> None:
        for address in self._workers.values():
            address.close()

    async def _ask(
        self, address: _Address, request: Outgoing, receiver: Receiver, patience: Patience, repeatable: bool
    ) -> None:
        kept = address.kept(self._loop.time())
        if kept is not None:
            try:
                await kept.ask(request, receiver, patience)
                return
            except UpstreamError:
                if not (kept.unanswered and (repeatable or kept.unsent)):
                    raise
        connection = await self._connect(address)
        await connection.ask(request, receiver, patience)

    async def _connect(self, address: _Address) -> WorkerConnection:
        try:
            async with asyncio.timeout(self._timeouts.connect_s):
                return await address.connect()
        except (OSError, TimeoutError):
            raise UpstreamError("connect", f"cannot connect to {address.url}", reached=False) from None


class _SmallAnswer:
    """A receiver that collects."""

    def __init__(self) -> None:
        self.begun = False
        self.status = 0
        self.parts: list[bytes] = []
        self._size = 0

    def sent(self) -> None:
        """That is all the same to it."""

    def head(self, status: int) -> None:
        self.status = status

    def data(self, data: bytes) -> bool:
        self.parts.append(data)
        self._size += len(data)
        return self._size > MOST_SMALL_BYTES

    def eof(self) -> None:
        """All of it is there."""


class _Address:
    """A worker's address, the head of every request to it, and its open connections."""

    def __init__(self, worker: WorkerConfig, kept_s: float) -> None:
        self._kept_s = kept_s
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
        connection = WorkerConnection(self, self.url)
        factory = cast(Callable[[], asyncio.Protocol], lambda: connection)
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(factory, self._host, self._port, ssl=self._ssl)
        except BaseException:
            self.lost(connection)  # uvloop closes it for a caller that is cancelled, and does not say so
            raise
        return connection

    def kept(self, now: float) -> WorkerConnection | None:
        """The connection used last, unless that is too long ago; then the others are stale too."""
        if not self._kept:
            return None
        connection, used = self._kept.popitem()
        if now - used <= self._kept_s:
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
