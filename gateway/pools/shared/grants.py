"""The stream of grants: what other replicas' calls granted to this one."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from gateway.config.schema import StoreConfig
from gateway.pools.shared.protocol import read_decision
from gateway.pools.shared.replica import Replica
from gateway.store.client import StoreClient
from gateway.store.errors import StoreError
from gateway.store.wire import Wire, command

logger = logging.getLogger("gateway")
PAUSE = 0.05


class Joins(Protocol):
    def join_anew(self) -> None:
        """Begin a new epoch: everything is told and heard again."""


class GrantReader:
    """Reads `stream` for as long as an epoch lasts. `seen` is the id of its last entry that the replica has heard, ""
    before the first; `link` is asked to join anew when an entry cannot be understood."""

    def __init__(self, link: Joins, replica: Replica, client: StoreClient, config: StoreConfig, stream: str) -> None:
        self.seen = ""
        self._link = link
        self._replica = replica
        self._client = client
        self._config = config
        self._stream = stream
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._read_or_join())

    def stop(self) -> None:
        """A new epoch begins with an empty stream."""
        self.seen = ""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _read_or_join(self) -> None:
        """What cannot be understood must not leave tickets without their turns."""
        try:
            await self._read()
        except Exception:
            logger.exception("grants cannot be read; the fault is the gateway's own")
            await asyncio.sleep(self._config.heartbeat_s)
            self._link.join_anew()

    async def _read(self) -> None:
        while True:
            try:
                wire = await self._client.open(self._stream)
                try:
                    await self._read_over(wire)
                finally:
                    wire.close()
            except StoreError:
                await asyncio.sleep(PAUSE)

    async def _read_over(self, wire: Wire) -> None:
        """Until the connection fails. Raises StoreError."""
        block = self._config.lease_s
        while True:
            read = command("XREAD", "BLOCK", round(block * 1000), "STREAMS", self._stream, self.seen or "0-0")
            for _, entries in await wire.ask(read, block + 1) or ():
                for self.seen, fields in entries:
                    self._replica.heard(read_decision(fields[fields.index("g") + 1]))
