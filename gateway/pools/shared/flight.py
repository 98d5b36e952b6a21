"""A replica's batches on their way to the store: numbered, in order, each the same again until it is answered.

Two may be on their way at once, on one connection. The store applies a batch only if it is the next by number, and
keeps the answers to the last two of each replica, so whatever becomes of the connection each is applied once, in order,
and its answer can be had. Example: batches 7 and 8 are on their way when the connection breaks. Whether the store had
applied none, 7, or both, 7 is sent again and then 8: each is applied now, or the answer it had then comes again. If 7
fails alone (no memory at that moment) and 8 would have been taken, 8 is refused: it is not the next.

A batch goes over a bare connection and is answered in a callback. One that failed there goes again through redis-py,
which knows about all that is rare: another server that has the key by now, a library that is not loaded. So does the
first one of an epoch; whichever it was, the ones after it go over a new bare connection.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, final

from gateway.pools.shared.machine import machine
from gateway.pools.shared.protocol import Op, Reply, read_reply, write_call
from gateway.store.client import StoreClient
from gateway.store.errors import StoreError
from gateway.store.wire import Wire, command

MOST_ON_THEIR_WAY = 2
RETRY_PAUSE = 0.02


@final
@dataclass(slots=True)
class Batch:
    """`sent` is when it was sent first; `within` so many seconds of that it must be answered, and within `again` it is
    repeated when it fails earlier."""

    number: int
    ops: list[Op]
    call: str
    sent: float
    within: float
    again: float


@final
class Flight:
    """`on_answer(batch, reply)` is told of each in order; without a reply the replica must join, and what was on its
    way behind it is gone, as the store refuses it too. `on_trouble` is told when `mend` has something to do. `key` is
    the prefix of the pool's keys, `name` the replica's id."""

    def __init__(
        self,
        client: StoreClient,
        key: str,
        name: str,
        clock: Callable[[], float],
        on_answer: Callable[[Batch, Reply | None], None],
        on_trouble: Callable[[], None],
    ) -> None:
        self.number = 0
        self.acked = 0  # the last batch that was answered
        self._client = client
        self._key = key
        self._name = name
        self._clock = clock
        self._on_answer = on_answer
        self._on_trouble = on_trouble
        self._function = machine().function("apply")
        self._batches: deque[Batch] = deque()
        self._wire: Wire | None = None
        self._error: StoreError | None = None  # why the oldest failed

    def __len__(self) -> int:
        return len(self._batches)

    def takes(self, urgent: bool) -> bool:
        """Whether another batch may go out: one at a time, and a second only with what somebody waits for."""
        beside = urgent and self._wire is not None and len(self._batches) < MOST_ON_THEIR_WAY
        return beside or not self._batches

    def send(self, ops: list[Op], seen: str, *, within: float, again: float) -> None:
        """`seen`: the last entry of the stream of grants that was heard."""
        self.number += 1
        call = write_call(self._name, self.number, self.acked, seen, ops)
        self._batches.append(batch := Batch(self.number, ops, call, self._clock(), within, again))
        if self._wire is None or self._wire.closed:
            self._wire = None
            self._on_trouble()
        else:
            self._put_on_wire(self._wire, batch)

    async def mend(self) -> None:
        """Have answered what found no connection, or an error, and open a new one. Raises StoreError when the time of a
        batch is up."""
        while self._wire is None and self._batches:
            self._answered(await self._repeat(self._batches[0]))
            await self._connect()

    def drop(self) -> None:
        """Nothing is on its way any more, as far as is known here, and there is no connection."""
        self._batches.clear()
        self._error = None
        self._hang_up()

    # -- inside ------------------------------------------------------------------------------------------------

    def _hang_up(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()

    def _put_on_wire(self, wire: Wire, batch: Batch) -> None:
        data = command("FCALL", self._function, 1, self._key, batch.call)
        wire.send(data, max(0.001, batch.sent + batch.within - self._clock()), self._heard)

    def _heard(self, answer: Any) -> None:
        """Over the bare connection."""
        if self._wire is None:
            return  # it has failed before, with another batch on its way
        if isinstance(answer, StoreError):
            self._error = answer
            self._hang_up()
            self._on_trouble()
        else:
            self._answered(answer)

    def _answered(self, answer: list[Any]) -> None:
        batch = self._batches.popleft()
        reply = read_reply(answer)
        if reply is None:
            self.drop()
        else:
            self.acked = batch.number
        self._on_answer(batch, reply)

    async def _repeat(self, batch: Batch) -> Any:
        """The same call again, until it is answered or time is up. Raises StoreError."""
        error, self._error = self._error, None
        while True:
            if error is not None:
                if self._clock() + RETRY_PAUSE >= batch.sent + batch.again:
                    raise error
                await asyncio.sleep(RETRY_PAUSE)
            left = max(0.001, batch.sent + batch.within - self._clock())
            try:
                return await self._client.call(machine(), "apply", self._key, batch.call, within=left)
            except StoreError as failed:
                error = failed

    async def _connect(self) -> None:
        """And send what has come up meanwhile. Without a connection batches go the long way."""
        with suppress(StoreError):
            self._wire = wire = await self._client.open(self._key)
            for batch in list(self._batches):
                self._put_on_wire(wire, batch)
