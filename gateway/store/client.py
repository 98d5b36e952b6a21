"""The edge to Redis or Valkey: the only module that speaks to the server.

Every call is tried once: who calls knows whether it may be repeated. A call that is given up closes its connection, so
that a late answer is never taken for that of another call.
"""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError, ResponseError

from gateway.config.schema import StoreConfig
from gateway.errors import GatewayError
from gateway.store.library import Library

_TROUBLE = (RedisError, RedisClusterException, OSError, TimeoutError, asyncio.IncompleteReadError)
_FORGOTTEN = ("Function not found", "No matching script")


class StoreError(GatewayError):
    """The store did not answer as it should. The text holds no secret."""


class StoreClient:
    """Connections to one server or cluster, opened when they are needed."""

    def __init__(self, config: StoreConfig) -> None:
        kind = RedisCluster if config.cluster else Redis
        self._client: Any = kind.from_url(
            config.url, decode_responses=True, retry=Retry(NoBackoff(), 0), socket_timeout=None,
            socket_connect_timeout=config.timeout_s,
        )  # fmt: skip

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

    async def read(self, stream: str, after: str, *, block: float, within: float) -> list[tuple[str, dict[str, str]]]:
        """The entries of a stream after the id `after`; waits `block` seconds for the first. Raises StoreError."""
        found = await self._try(self._client.xread({stream: after}, block=round(block * 1000)), within)
        streams = found.values() if isinstance(found, dict) else [entries for _, entries in found or ()]
        return [(entry, fields) for entries in streams for entry, fields in _flat(entries)]

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

    async def _try(self, work: Any, within: float) -> Any:
        try:
            async with asyncio.timeout(within):
                return await work
        except _TROUBLE as error:
            text = str(error) or type(error).__name__
            raise StoreError("no answer in time" if isinstance(error, TimeoutError) else text) from None


def _flat(entries: Any) -> list[tuple[str, dict[str, str]]]:
    """RESP3 nests the entries of a stream once more."""
    return entries[0] if entries and isinstance(entries[0], list) else entries
