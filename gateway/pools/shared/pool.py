"""The pool port over shared state: every decision is the store's, or, while that is lost, this replica's own.

Tickets, their turns and what they were charged are kept in every mode (`ReplicaState`), so that a mode can end at any
moment: the next one begins from them. What happens is passed on to the mode; which one it is is decided here alone:

    in                 what happens                      then
    any                the link begins a new epoch       Joining    the store is told everything, by Alone what it knows
    Joining            the store has applied the join    Sharing    of this epoch
    Joining, Sharing   the store is lost                 Alone      `on_store_loss: local`
                                                         Refusing   `on_store_loss: closed`
    Alone, Refusing    the store is lost                 the same   the link has found so once more

The mode that is told to others (`standing`, the log) is the last one that was more than an attempt: while a replica
joins it stands as before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from fairness import Auditor, Book, Grant, Refusal, Snapshot, State, Ticket, Worker
from gateway.pools.drain_rate import DrainRate
from gateway.pools.port import CLOSED, ReplicaBook, Standing
from gateway.pools.shared.desk import Desk
from gateway.pools.shared.holdings import Holdings
from gateway.pools.shared.link import Link
from gateway.pools.shared.modes.alone import Alone
from gateway.pools.shared.modes.joining import Joining
from gateway.pools.shared.modes.port import Mode, ReplicaState
from gateway.pools.shared.modes.refusing import Refusing
from gateway.pools.shared.modes.sharing import Sharing
from gateway.pools.shared.protocol import Decision, Op, Reply, begins_epoch
from gateway.pools.shared.settings import SharedSettings, read_settings
from gateway.pools.shared.view import View, nothing_yet
from gateway.pools.shared.workers import Workers

logger = logging.getLogger("gateway")


class SharedPool:
    """`own` are the settings of this gateway's file. `connect` makes the link for the pool. `closed_when_lost`: refuse
    instead of going on alone. `health_ttl` seconds is a good probe believed. `adapters`: those the pool serves.
    Must be used from one event loop."""

    def __init__(
        self,
        name: str,
        own: SharedSettings,
        connect: Callable[[SharedPool], Link],
        *,
        closed_when_lost: bool,
        health_ttl: float,
        adapters: int,
        auditor: Callable[[], Auditor],
        clock: Callable[[], float],
        drain_rate: DrainRate,
    ) -> None:
        self.name = name
        self.on_failure: Callable[[str], None] = lambda worker: None
        self._own = own
        self._closed_when_lost = closed_when_lost
        self._adapters = adapters
        self._auditor = auditor
        link, workers = connect(self), Workers(own, health_ttl)
        desk = Desk(link, own.measure(), workers.__contains__, drain_rate, clock)
        self._state = ReplicaState(name, own, own.predictor(), link, desk, workers, nothing_yet(own), drain_rate, clock)
        self.mode: Mode = Joining(self._state)
        self._told, self._told_text = self.mode.name, ""
        self._crossings = 0  # of modes that have ended, and of the whole pool
        self._stale = ""
        self._closed = False

    # -- the port: tickets -------------------------------------------------------------------------------------

    def start(self) -> None:
        self.link.start()

    async def submit(self, ticket: Ticket) -> Refusal | None:
        if self._closed:
            return CLOSED
        refusal = await self.mode.submit(self.held.add(ticket))
        if refusal is not None:
            self.held.pop(ticket)
        return refusal

    async def turn(self, ticket: Ticket) -> Grant | Refusal:
        return await self.held[ticket].turn

    def charge(self, ticket: Ticket, produced: int) -> None:
        self.mode.charge(ticket, produced)

    def correct(self, ticket: Ticket, input_tokens: int, cached_tokens: int) -> None:
        self.mode.correct(ticket, input_tokens, cached_tokens)

    def finish(self, ticket: Ticket) -> None:
        self.mode.finish(ticket)

    def leave(self, ticket: Ticket, *, consumed: bool) -> None:
        if self.held.find_ticket(ticket) is not None:
            self.mode.leave(ticket, consumed=consumed and ticket.state is State.RUNNING)

    def requeue(self, ticket: Ticket) -> None:
        self.mode.requeue(ticket)

    # -- the port: workers -------------------------------------------------------------------------------------

    def overflowed(self, worker: str) -> None:
        self.mode.overflowed(worker)

    def failed(self, worker: str, *, reached: bool) -> None:
        if not reached:
            self.set_health(worker, False)
        self.on_failure(worker)

    def healthy(self, *, besides: frozenset[str] = frozenset()) -> bool:
        return self._state.workers.healthy(besides)

    def set_health(self, worker: str, healthy: bool) -> None:
        self.mode.set_health(worker, healthy)

    def set_size(self, worker: str, slots: int, kv_tokens: int) -> None:
        self.mode.set_size(worker, slots, kv_tokens)

    def engine_waiting(self, worker: str, waiting: int) -> None:
        self.mode.engine_waiting(worker, waiting)

    def retry_after(self) -> float:
        return self.mode.retry_after()

    # -- the port: inspection and the end ----------------------------------------------------------------------

    def snapshot(self) -> tuple[Snapshot, list[Worker]]:
        return self.mode.snapshot()

    def crossings(self) -> int:
        return self._crossings + self.mode.crossings()

    def standing(self) -> Standing:
        return Standing(self._told, self._state.desk.known.peers, self._stale)

    def replica_book(self) -> ReplicaBook:
        return ReplicaBook(self.link.name, self.book.totals())

    def idle(self) -> bool:
        return not self.held.running() and not self.held.waiting()

    def close(self) -> None:
        self._closed = True
        self.mode.close()

    async def end(self) -> None:
        await self.link.leave()
        for held in self.held:
            held.stop_timer()

    # -- what it holds -----------------------------------------------------------------------------------------

    @property
    def settings(self) -> SharedSettings:
        """Those in force."""
        return self._state.settings

    @property
    def link(self) -> Link:
        return self._state.link

    @property
    def held(self) -> Holdings:
        return self._state.desk.held

    @property
    def book(self) -> Book:
        """What this replica's tickets were charged."""
        return self._state.desk.book

    # -- what the link asks and tells --------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        return self.settings.revision

    @property
    def lease_s(self) -> float:
        return self.settings.lease_s

    def joining(self) -> list[Op]:
        before, self.mode = self.mode, (joining := Joining(self._state))
        self._crossings += before.crossings()
        before.end()
        return joining.everything()

    def applied(self, reply: Reply, ops: list[Op]) -> None:
        desk = self._state.desk
        if begins_epoch(ops):
            desk.known.joined()
            self.mode = Sharing(self._state, reply.epoch)
            self._tell(logging.INFO, "shares the queue with all replicas")
        desk.known.peers = max(1, reply.replicas)
        self._state.waiting = reply.waiting
        desk.answered(ops, reply)
        for decision in reply.decisions:
            self.heard(decision)
        desk.known.heard(reply.shares)

    def heard(self, decision: Decision) -> None:
        self.mode.heard(decision)

    def lost(self, reason: str) -> None:
        if isinstance(self.mode, Alone):
            return
        if self._closed_when_lost:
            self.mode = Refusing(self._state)
            text = "refuses requests until it is back"
        else:
            self.mode = Alone(self._state, self._adapters, self._auditor())
            text = f"goes on alone with 1/{self._state.desk.known.peers} of the room"
        self._tell(logging.WARNING, f"lost the store ({reason}) and {text}")

    def adopt(self, text: str) -> bool:
        state, found = self._state, read_settings(text)
        self._compare(found)
        if found.revision <= state.settings.revision:
            return False
        logger.info("pool %s: follows revision %d of the configuration", self.name, found.revision)
        same, state.settings = found.same_prices(state.settings), found
        state.desk.price_by(found.measure(), found.weights_of)
        state.predictor = found.predictor()
        return not same

    def inspected(self, data: dict[str, Any]) -> None:
        view = self._state.view = View(self.settings, data)
        self._state.workers.seen(view)
        if view.crossed():
            self._crossings += 1
            logger.warning("pool %s: the counters are %g apart, over the bound", self.name, view.gap)

    # -- inside ------------------------------------------------------------------------------------------------

    def _tell(self, level: int, text: str) -> None:
        """How the pool stands now, in the log if that is news."""
        if text != self._told_text:
            logger.log(level, "pool %s %s", self.name, text)
        self._told, self._told_text = self.mode.name, text

    def _compare(self, found: SharedSettings) -> None:
        """Is this gateway's file the configuration in force?"""
        stale = ""
        if found.revision > self._own.revision:
            stale = f"its configuration is revision {self._own.revision}; {found.revision} is in force"
        elif found.revision == self._own.revision and found.digest != self._own.digest:
            stale = f"another gateway has a different configuration of the same revision {found.revision}"
        if stale and stale != self._stale:
            logger.warning("pool %s: %s", self.name, stale)
        self._stale = stale
