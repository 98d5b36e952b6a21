"""The edge to Redis or Valkey: redis-py for what is rare, bare connections (wire.py) for what is asked all the time.

redis-py knows where a server or a cluster is and how to speak to it: addresses, TLS, users, redirections, a library of
functions that is not there yet. Every call is tried once: who calls knows whether it may be repeated. A call that is
given up closes its connection, so that a late answer is never taken for that of another call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, cast

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError, ResponseError

from gateway.config.schema import StoreConfig
from gateway.store.errors import StoreError
from gateway.store.library import Library
from gateway.store.wire import Wire, command

_TROUBLE = (RedisError, RedisClusterException, OSError, TimeoutError, asyncio.IncompleteReadError)
_FORGOTTEN = ("Function not found", "No matching script")


class StoreClient:
    """Connections to one server or cluster, opened when they are needed."""

    def __init__(self, config: StoreConfig) -> None:
        kind = RedisCluster if config.cluster else Redis
        self._client: Any = kind.from_url(
            config.url, decode_responses=True, retry=Retry(NoBackoff(), 0), socket_timeout=None,
            socket_connect_timeout=config.timeout_s,
        )  # fmt: skip
        self._cluster = config.cluster
        self._timeout_s = config.timeout_s

    async def call(self, library: Library, entry: str, key: str, *arguments: str, within: float) -> Any:
        """Call a function of `library`, loading that first where the server does not know it. `within` in seconds.
        Raises StoreError."""
        function = library.function(entry)
        return await self._try(self._call(library, function, key, *arguments), within)

    async def get(self, key: str, *, within: float) -> str | None:
        """A string, or None. Raises StoreError."""
        value = await self._try(self._client.get(key), within)
        return None if value is None else str(value)

    async def takes_writes(self, key: str, *, within: float) -> bool:
        """Does the server of `key` take a write? It may answer and yet refuse: read-only after a fail-over, without
        memory, unable to persist. The key is gone after a second."""
        try:
            await self._try(self._client.set(key, "", px=1000), within)
        except StoreError:
            return False
        return True

    async def remove_member(self, key: str, member: str, *, within: float) -> None:
        """Take a member out of a sorted set. Raises StoreError."""
        await self._try(self._client.zrem(key, member), within)

    async def open(self, key: str) -> Wire:
        """A connection to the server that has `key`, for the caller alone, who closes it. Raises StoreError."""
        return cast(Wire, await self._try(self._open(key), self._timeout_s))

    async def close(self) -> None:
        await self._client.aclose()

    async def _call(self, library: Library, function: str, key: str, *arguments: str) -> Any:
        try:
            return await self._client.fcall(function, 1, key, *arguments)
        except ResponseError as error:
            if not any(text in str(error) for text in _FORGOTTEN):
                raise
        await self._client.function_load(library.source, replace=True)
        return await self._client.fcall(function, 1, key, *arguments)

    async def _open(self, key: str) -> Wire:
        place = await self._place(key)
        wire = Wire()
        try:
            await _connect(place, wire)
            for words in _introduction(place):
                await wire.ask(command(*words), self._timeout_s)
        except BaseException:
            wire.close()
            raise
        return wire

    async def _place(self, key: str) -> Any:
        """A connection as redis-py would make it, not opened: it tells where the server is, and who we are there."""
        if not self._cluster:
            return self._client.connection_pool.make_connection()
        await self._client.initialize()  # does nothing when the cluster is known
        node = self._client.get_node_from_key(key)
        return node.connection_class(**node.connection_kwargs)

    async def _try(self, work: Any, within: float) -> Any:
        try:
            async with asyncio.timeout(within):
                return await work
        except StoreError:
            raise
        except _TROUBLE as error:
            text = str(error) or type(error).__name__
            raise StoreError("no answer in time" if isinstance(error, TimeoutError) else text) from None


async def _connect(place: Any, wire: Wire) -> None:
    loop, protocol = asyncio.get_running_loop(), cast(asyncio.Protocol, wire)  # it has the methods
    if isinstance(place, UnixDomainSocketConnection):
        await loop.create_unix_connection(lambda: protocol, place.path)
        return
    tls = place.ssl_context.get() if isinstance(place, SSLConnection) else None
    await loop.create_connection(lambda: protocol, place.host, place.port, ssl=tls)


def _introduction(place: Any) -> Iterator[tuple[str | int, ...]]:
    """The commands with which a connection begins."""
    if place.password:
        yield ("AUTH", place.username, place.password) if place.username else ("AUTH", place.password)
    if place.db:
        yield ("SELECT", place.db)
