"""The upstream edge: the only module that speaks HTTP to workers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

import aiohttp

from gateway.config import Timeouts, WorkerConfig
from gateway.errors import UpstreamError


class Answer(Protocol):
    """A worker's answer whose headers have arrived."""

    status: int
    content_type: str

    async def read(self) -> bytes:
        """The next bytes of the body as they come; empty at its end. Raises UpstreamError."""

    def close(self) -> None:
        """Drop the connection at once unless the body was read to its end. May be repeated."""


class Upstream(Protocol):
    async def post(self, worker: str, path: str, body: bytes, request_id: str) -> Answer:
        """Send a request, wait for the head of the answer. Raises UpstreamError."""

    async def get(self, worker: str, path: str, patience: float) -> tuple[int, bytes]:
        """A small answer whole. `patience` in seconds. Raises UpstreamError."""

    async def close(self) -> None: ...


class HttpUpstream:
    """Keeps connections to every worker open. Workers are named by their URL."""

    def __init__(self, workers: Iterable[WorkerConfig], timeouts: Timeouts) -> None:
        self._idle = timeouts.idle_s
        self._headers = {w.url: {"Authorization": f"Bearer {w.api_key}"} if w.api_key else {} for w in workers}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect_s),
            auto_decompress=False,
        )

    async def post(self, worker: str, path: str, body: bytes, request_id: str) -> Answer:
        headers = {"Content-Type": "application/json", "x-request-id": request_id, **self._headers[worker]}
        try:
            response = await self._session.post(worker + path, data=body, headers=headers, allow_redirects=False)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _failure(worker, error) from error
        return HttpAnswer(worker, response, self._idle)

    async def get(self, worker: str, path: str, patience: float) -> tuple[int, bytes]:
        try:
            async with (
                asyncio.timeout(patience),
                self._session.get(worker + path, headers=self._headers[worker], allow_redirects=False) as response,
            ):
                return response.status, await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _failure(worker, error) from error

    async def close(self) -> None:
        await self._session.close()


class HttpAnswer:
    def __init__(self, worker: str, response: aiohttp.ClientResponse, idle: float) -> None:
        self.status = response.status
        self.content_type = response.content_type
        self._worker = worker
        self._response = response
        self._idle = idle

    async def read(self) -> bytes:
        try:
            async with asyncio.timeout(self._idle):
                return await self._response.content.readany()
        except TimeoutError:
            raise UpstreamError("timeout", f"{self._worker} sent nothing for {self._idle:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _failure(self._worker, error) from error

    def close(self) -> None:
        self._response.close()


def _failure(worker: str, error: Exception) -> UpstreamError:
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return UpstreamError("connect", f"cannot connect to {worker}", reached=False)
    if isinstance(error, TimeoutError):
        return UpstreamError("timeout", f"{worker} did not answer in time")
    return UpstreamError("closed", f"{worker} closed the connection ({type(error).__name__})")
