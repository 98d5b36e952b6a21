"""The way to a pool's state machine in the store, and the life of a replica there.

What comes up while calls are on their way (flight.py) goes into the next one, so many operations share a call under
load (outbox.py). A call that is answered without trouble is sent and heard in callbacks; the link's task sleeps and
sees to the rest: to join, to repeat what failed, to read a new configuration, to look at the pool, to leave. When no
answer comes within `timeout_s` (to a `join`, which may carry thousands of tickets: within the lease) the store counts
as lost: what was not told is dropped, because the `join` that follows tells everything. What other replicas' calls
granted to this one comes over a stream of its own (grants.py)."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from math import inf
from typing import Any, final

from gateway.config.schema import StoreConfig
from gateway.pools.shared.flight import RETRY_PAUSE, Batch, Flight
from gateway.pools.shared.grants import GrantReader
from gateway.pools.shared.machine import machine
from gateway.pools.shared.outbox import Outbox
from gateway.pools.shared.protocol import Charge, Leave, Op, Reply, begins_epoch
from gateway.pools.shared.replica import Replica
from gateway.store.client import StoreClient
from gateway.store.errors import StoreError

logger = logging.getLogger("gateway")
FIRST_PAUSE = 0.05


@final
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
        self._outbox = Outbox(config.flush_s, self._go)
        self._flight = Flight(client, key, name, clock, self._answered, self._wake_up)
        self._wake = asyncio.Event()  # the task has something to see to
        self._talking = False  # operations are told as they come up
        self._must_join = False
        self._lost = False
        self._leaving = False
        self._fault: Exception | None = None  # of the gateway itself, in a callback
        self._waiting = 0  # tickets of all replicas, as last heard
        self._renewed: float | None = None  # when the call was sent that last renewed the lease
        self._revision = 0  # of the configuration in force, as last heard
        self._called = 0.0  # when the last call was sent
        self._inspected = 0.0
        self._began = inf  # when the epoch did
        self._pause = 0.0  # before the store is tried again
        self._task: asyncio.Task[None] | None = None
        self._heart: asyncio.TimerHandle | None = None
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
        self._outbox.tell(op)

    def tell_soon(self, op: Op) -> None:
        """What gives room back: at once while anybody waits for it, else so that it may share a call with what comes
        next, and a request that comes now need not wait for this one's answer."""
        if self._waiting:
            self._outbox.tell(op)
        else:
            self._outbox.tell_within_linger(op)

    def mention(self, subject: str, op: Op) -> None:
        """With the next call, whenever that is; ahead of all that is told. The last one of a `subject` counts."""
        self._outbox.mention(subject, op)

    def charge(self, op: Charge) -> None:
        """What was said before of the ticket is out of date."""
        self._outbox.charge(op)

    def drop_charge(self, ticket: str) -> None:
        """The operation that follows says it all."""
        self._outbox.drop_charge(ticket)

    def join_anew(self) -> None:
        self._must_join, self._talking = True, False
        self._wake.set()

    # -- its life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def leave(self) -> None:
        """Tell what is left to tell and leave the pool, if the store answers soon; then stop. Each of two calls, the
        one that may be in flight and the last, has `timeout_s`."""
        self._leaving, self._talking = True, False
        self._wake.set()
        if self._task is not None:
            if not self._lost:
                await asyncio.wait((self._task,), timeout=2 * self._config.timeout_s)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._renewed = None
        self.stop()

    def stop(self) -> None:
        """Nothing more is said or heard, and no timer is left."""
        self._talking = False
        if self._task is not None:
            self._task.cancel()
        self._stop_heart()
        self.grants.stop()
        self._outbox.stop()
        self._flight.drop()

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
        """Begin a new epoch. False: the store was lost over it, or the replica must begin once more."""
        self.grants.stop()
        again = 0.0 if self._lost else self._config.timeout_s  # a store that was lost is left alone for a while instead
        self._must_join = self._lost = self._outbox.closed = False
        self._outbox.drop()
        self._flight.drop()
        self._began = inf
        joins = self.joins
        self._send(self._replica.joining(), within=self._lease(), again=again)
        if not await self._mend() or self.joins == joins:
            return False
        self._began = self._clock()
        self.grants.start()
        return await self._learn()

    async def _stay(self) -> None:
        """See to what comes up, until the replica must join anew, the store is lost, or left. Who leaves need not join,
        but leave, or the pool would hold its place for a lease."""
        self._beat()
        while await self._mend():
            over = self._leaving or self._must_join
            if over and not self._flight:
                break
            if not over and not await self._look():
                break
            self._talking = not (self._leaving or self._must_join)
            self._go()
            if self._talking or self._flight:
                await self._woken()
        self._talking = False
        self._stop_heart()
        if self._leaving and not self._lost:
            await self._say_goodbye()

    async def _say_goodbye(self) -> None:
        self._send([*self._outbox.take(), Leave()], within=self._config.timeout_s, again=self._config.timeout_s)
        while await self._mend() and self._flight:
            await self._woken()

    async def _woken(self) -> None:
        await self._wake.wait()
        self._wake.clear()

    def _wake_up(self) -> None:
        self._wake.set()

    def _lose(self, reason: str) -> None:
        self.grants.stop()
        self._talking, self._lost, self._outbox.closed = False, True, True
        self._outbox.drop()
        self._flight.drop()
        self._replica.lost(reason)

    # -- calls ---------------------------------------------------------------------------------------------------

    def _go(self) -> None:
        """Send what is due, if it may go now; else it goes when what is on its way was answered."""
        outbox = self._outbox
        if self._talking and outbox.due and self._flight.takes(outbox.urgent):
            self._send(outbox.take(), within=self._config.timeout_s, again=self._config.timeout_s)

    def _send(self, ops: list[Op], *, within: float, again: float) -> None:
        self._called = self._clock()
        self._flight.send(ops, self.grants.seen, within=within, again=again)

    async def _mend(self) -> bool:
        """See to calls that failed. False: the store was lost over it."""
        try:
            await self._flight.mend()
        except StoreError as error:
            self._lose(str(error))
        if self._fault is not None:
            fault, self._fault = self._fault, None
            raise fault
        return not self._lost

    def _answered(self, batch: Batch, reply: Reply | None) -> None:
        try:
            self._hear(batch, reply)
        except Exception as error:  # it must not reach the connection that called
            self._fault, self._talking = error, False
        if self._talking:
            self._go()
        else:
            self._wake.set()

    def _hear(self, batch: Batch, reply: Reply | None) -> None:
        if reply is None:
            self._must_join, self._talking = True, False
            return
        self._waiting = reply.waiting
        self._renewed = batch.sent
        self.joins += begins_epoch(batch.ops)
        self._replica.applied(reply, batch.ops)
        if reply.more:
            self._outbox.call()
        self._outbox.call_after(reply.hold_s and reply.hold_s + 0.001)
        self._revision = reply.revision
        if self._is_behind():
            self._talking = False
        elif self._may_inspect():
            self._wake.set()

    def _beat(self) -> None:
        """A call now and then, so that the lease is renewed."""
        self._stop_heart()
        interval = min(self._config.heartbeat_s, self._lease() / 3)
        idle = self._clock() - self._called
        if idle >= interval and not self._flight:
            self._outbox.call()
        self._heart = asyncio.get_running_loop().call_later(interval - idle % interval, self._beat)

    def _stop_heart(self) -> None:
        if self._heart is not None:
            self._heart.cancel()
            self._heart = None

    # -- what the task reads -------------------------------------------------------------------------------------

    async def _look(self) -> bool:
        """What a reply has given cause to read. False: the store was lost over it."""
        if self._is_behind():
            if not await self._learn():
                return False
            self._beat()  # leases may be shorter now
        return not self._may_inspect() or await self._inspect()

    def _is_behind(self) -> bool:
        """Another configuration is in force than the replica knows."""
        return self._revision > self._replica.revision

    async def _learn(self) -> bool:
        """Read the configuration in force. False: the store was lost over it."""
        try:
            text = await self._read(partial(self._client.get, f"{self._key}:configuration"))
        except StoreError as error:
            self._lose(str(error))
            return False
        if text is not None and self._replica.adopt(text):
            self._must_join = True
        return True

    def _may_inspect(self) -> bool:
        """Now and then, while something happens."""
        return self._outbox.news and self._clock() - self._inspected >= self._config.heartbeat_s

    async def _inspect(self) -> bool:
        """Look at the pool. False: the store was lost over it."""
        self._outbox.news, self._inspected = False, self._clock()
        try:
            text = await self._read(partial(self._client.call, machine(), "inspect", self._key, "groups"))
        except StoreError as error:
            self._lose(str(error))
            return False
        if text is not None:
            self._replica.inspected(json.loads(text))
        return True

    async def _read(self, read: Callable[..., Awaitable[Any]]) -> Any:
        """Again, until it is answered or `timeout_s` is over. Raises StoreError."""
        until = self._clock() + self._config.timeout_s
        while True:
            try:
                return await read(within=max(0.001, until - self._clock()))
            except StoreError:
                if self._clock() + RETRY_PAUSE >= until:
                    raise
            await asyncio.sleep(RETRY_PAUSE)
