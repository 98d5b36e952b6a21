"""The way to a pool's state machine in the store: one call in flight, in order, the same batch again until answered.

What comes up while a call is on its way goes into the next one, so many operations share a call under load. Tokens
that were seen may wait `flush_s` for company; everything else is told at once. A batch has a number, and the store
keeps the last one with its reply, so sending it again does no harm. When no answer comes within `timeout_s` (to
a `join`, which may carry thousands of tickets: within the lease) the store counts as lost: what was not told is
dropped, because the `join` that follows tells everything. What other replicas' calls granted to this one comes over a
stream of its own (grants.py)."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any

from gateway.config.schema import StoreConfig
from gateway.pools.shared.grants import GrantReader
from gateway.pools.shared.machine import machine
from gateway.pools.shared.protocol import Charge, Leave, Op, Reply, read_reply, write_call
from gateway.pools.shared.replica import Replica
from gateway.store.client import StoreClient, StoreError

logger = logging.getLogger("gateway")

MOST_OPS = 1000
"""Operations in one call, so that none keeps the server busy for long. Reports of tokens come on top."""
LINGER = 0.002
"""Seconds that an operation which gives room back may wait for company while nobody waits for room."""
RETRY_PAUSE = 0.02
FIRST_PAUSE = 0.05


class Link:
    """`key` is the prefix of the pool's keys, `name` the replica's id. `clock` in seconds, the event loop's."""

    def __init__(
        self,
        replica: Replica,
        client: StoreClient,
        config: StoreConfig,
        *,
        key: str,
        name: str,
        clock: Callable[[], float],
    ) -> None:
        self.name = name
        self.joins = 0  # epochs of this replica
        self._replica = replica
        self._client = client
        self._config = config
        self._key = key
        self._clock = clock
        self._batch = 0
        self._renewed: float | None = None  # when the call was sent that last renewed the lease
        self._acked = 0  # the last batch that was answered
        self._ops: list[Op] = []
        self._charges: dict[str, Op] = {}
        self._mentions: dict[str, Op] = {}
        self._due = asyncio.Event()
        self._flush: asyncio.TimerHandle | None = None
        self._hold: asyncio.TimerHandle | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._waiting = 0  # tickets of all replicas, as last heard
        self._must_join = False
        self._lost = False
        self._leaving = False
        self._unseen = False  # something ran since the pool was last inspected
        self._inspected = 0.0
        self._began = inf  # when the epoch did
        self._pause = 0.0  # before the store is tried again
        self._task: asyncio.Task[None] | None = None
        self.grants = GrantReader(self, replica, client, config, f"{key}:grants:{name}")

    @property
    def lease_until(self) -> float:
        """0 while there is no lease."""
        return 0.0 if self._renewed is None else self._renewed + self._lease()

    def _lease(self) -> float:
        """Not longer than the store's, whichever configuration that has."""
        return min(self._config.lease_s, self._replica.lease_s)

    # -- what is to be told --------------------------------------------------------------------------------------

    def tell(self, op: Op) -> None:
        """With the next call, which goes out at once. To a store that is lost nothing is told, here and below: the
        join that follows tells it all."""
        if not self._lost:
            self._ops.append(op)
            self._due.set()

    def tell_soon(self, op: Op) -> None:
        """What gives room back: at once while anybody waits for it, else within `LINGER`, so that it may share a call
        with what comes next and a request that comes now need not wait for this one's answer."""
        if self._waiting:
            self.tell(op)
        elif not self._lost:
            self._ops.append(op)
            if self._linger is None:
                self._linger = asyncio.get_running_loop().call_later(LINGER, self._due.set)

    def mention(self, subject: str, op: Op) -> None:
        """With the next call, whenever that is; ahead of all that is told. The last one of a `subject` counts."""
        if not self._lost:
            self._mentions[subject] = op

    def charge(self, op: Charge) -> None:
        """What was said before of the ticket is out of date."""
        if self._lost:
            return
        self._charges[op.id] = op
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(self._config.flush_s, self._due.set)

    def drop_charge(self, ticket: str) -> None:
        """The operation that follows says it all."""
        self._charges.pop(ticket, None)

    def join_anew(self) -> None:
        self._must_join = True
        self._due.set()

    # -- its life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def leave(self) -> None:
        """Tell what is left to tell and leave the pool, if the store answers soon; then stop. Each of two calls, the
        one that may be in flight and the last, has `timeout_s`."""
        self._leaving = True
        self._due.set()
        if self._task is not None:
            if not self._lost:
                await asyncio.wait((self._task,), timeout=2 * self._config.timeout_s)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._renewed = None
        self.grants.stop()
        for timer in (self._flush, self._hold, self._linger):
            if timer is not None:
                timer.cancel()

    async def _run(self) -> None:
        while not self._leaving:
            try:
                if self._lost:
                    await self._until_it_takes_writes()
                if await self._join():
                    await self._stay()
            except Exception:
                logger.exception("the link to the store failed; the fault is the gateway's own")
                self._lose("internal error")

    async def _until_it_takes_writes(self) -> None:
        """Tries less and less often, also while a store takes writes and epochs end at once all the same."""
        if self._clock() - self._began >= self._lease():
            self._pause = 0.0
        while True:
            await asyncio.sleep(self._pause)
            self._pause = min(max(FIRST_PAUSE, 2 * self._pause), self._config.heartbeat_s)
            if await self._client.takes_writes(f"{self._key}:probe", within=self._config.timeout_s):
                return

    async def _join(self) -> bool:
        """Begin a new epoch. False: the store was lost over it."""
        self.grants.stop()
        again = 0.0 if self._lost else self._config.timeout_s  # a store that was lost is left alone for a while instead
        self._must_join = self._lost = False
        self._drop_untold()
        self._began = inf
        reply = await self._exchange(self._replica.joining(), within=self._lease(), again=again)
        if reply is None:
            return False
        self.joins += 1
        self._began = self._clock()
        self.grants.start()
        return await self._learn()

    async def _stay(self) -> None:
        """Tell what comes up, until the replica must join anew, the store is lost, or left. Who leaves need not join,
        but leave, or the pool would hold its place for a lease."""
        while self._leaving or not self._must_join:
            await self._wait()
            leaving = self._leaving
            ops = [*self._take(), Leave()] if leaving else self._take()
            timeout = self._config.timeout_s
            reply = await self._exchange(ops, within=timeout, again=timeout)
            if reply is None or leaving:
                return
            if reply.revision > self._replica.revision and not await self._learn():
                return
            if not await self._inspect():
                return

    async def _wait(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(min(self._config.heartbeat_s, self._lease() / 3)):
                await self._due.wait()

    def _take(self) -> list[Op]:
        for timer in (self._flush, self._linger):
            if timer is not None:
                timer.cancel()
        self._flush = self._linger = None
        ops = [*self._mentions.values(), *self._charges.values(), *self._ops[:MOST_OPS]]
        self._unseen = self._unseen or len(ops) > len(self._mentions)
        self._mentions.clear()
        self._charges.clear()
        del self._ops[:MOST_OPS]
        self._due.clear()
        if self._ops:
            self._due.set()
        return ops

    def _drop_untold(self) -> None:
        for untold in (self._ops, self._charges, self._mentions):
            untold.clear()

    def _lose(self, reason: str) -> None:
        self.grants.stop()
        self._lost = True
        self._drop_untold()
        self._replica.lost(reason)

    # -- calls ---------------------------------------------------------------------------------------------------

    async def _exchange(self, ops: list[Op], *, within: float, again: float) -> Reply | None:
        """Have a batch applied, `within` seconds; a call that fails earlier is repeated for `again` seconds. None: the
        replica must join, now or, `_lost`, when the store is back."""
        self._batch += 1
        call = write_call(self.name, self._batch, self._acked, self.grants.seen, ops)
        sent = self._clock()
        try:
            raw = await self._again(partial(self._client.call, machine(), "apply", self._key, call), within, again)
        except StoreError as error:
            self._lose(str(error))
            return None
        reply = read_reply(raw)
        if reply is None:
            self._must_join = True
            return None
        self._acked = self._batch
        self._waiting = reply.waiting
        self._renewed = sent
        self._replica.applied(reply, ops)
        self._come_back(reply)
        return reply

    async def _again(self, call: Callable[..., Awaitable[Any]], within: float, again: float) -> Any:
        """The same call again, until it is answered or time is up. Raises StoreError."""
        began = self._clock()
        while True:
            try:
                return await call(within=max(0.001, began + within - self._clock()))
            except StoreError:
                if self._clock() + RETRY_PAUSE >= began + again:
                    raise
            await asyncio.sleep(RETRY_PAUSE)

    def _come_back(self, reply: Reply) -> None:
        if reply.more:
            self._due.set()
        if self._hold is not None:
            self._hold.cancel()
        later = asyncio.get_running_loop().call_later
        self._hold = later(reply.hold_s + 0.001, self._due.set) if reply.hold_s else None

    async def _learn(self) -> bool:
        """Read the configuration in force. False: the store was lost over it."""
        get, timeout = partial(self._client.get, f"{self._key}:configuration"), self._config.timeout_s
        try:
            text = await self._again(get, timeout, timeout)
        except StoreError as error:
            self._lose(str(error))
            return False
        if text is not None and self._replica.adopt(text):
            self._must_join = True
        return True

    async def _inspect(self) -> bool:
        """Look at the pool now and then, while something happens. False: the store was lost over it."""
        now = self._clock()
        if not self._unseen or now - self._inspected < self._config.heartbeat_s:
            return True
        self._unseen, self._inspected = False, now
        inspect, timeout = partial(self._client.call, machine(), "inspect", self._key, "groups"), self._config.timeout_s
        try:
            text = await self._again(inspect, timeout, timeout)
        except StoreError as error:
            self._lose(str(error))
            return False
        if text is not None:
            self._replica.inspected(json.loads(text))
        return True
