"""The pool port over shared state: every decision is the store's, or, while that is lost, this replica's own.

    JOINING  the store is being told everything; nothing is dispatched
    SHARED   operations go to the store, grants come from it
    LOST     `local`: a pool in this process decides, over a share of the room; `closed`: what comes is refused, and
             what waits keeps waiting

Tickets, their turns and what they were charged (`Book`) are kept here in every mode, so that a mode can end at any
moment: the next one begins from them. A grant is obeyed only while SHARED, for a ticket that waits, in the epoch it was
made in, and within the lease: otherwise the room it stands for may be somebody else's by now.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum
from math import ceil
from typing import Any

from fairness import Auditor, Grant, Refusal, Snapshot, State, Ticket, Worker, paths
from gateway.pools.drain_rate import DrainRate
from gateway.pools.local import LocalPool
from gateway.pools.port import CLOSED, Standing
from gateway.pools.shared.alone import PartRoom, move_in, net_counters, part_of, pool_alone
from gateway.pools.shared.desk import Desk
from gateway.pools.shared.holdings import Held
from gateway.pools.shared.link import Link
from gateway.pools.shared.protocol import Cancel, Decision, Finish, Op, Reply, Undo, WorkerReport, begins_epoch
from gateway.pools.shared.settings import SharedSettings, read_settings
from gateway.pools.shared.view import View, nothing_yet
from gateway.pools.shared.workers import Workers
from gateway.pools.slots import MAY_WAIT

logger = logging.getLogger("gateway")
RETRY_AFTER = 5.0
STORE_LOST = Refusal("store_lost", "the store of the queues cannot be reached", RETRY_AFTER)


class Mode(Enum):
    JOINING = "joining"
    SHARED = "shared"
    LOST = "lost"


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
        self.settings = own
        self.on_failure: Callable[[str], None] = lambda worker: None
        self.mode = Mode.JOINING
        self._own = own
        self._closed_when_lost = closed_when_lost
        self._adapters = adapters
        self._auditor = auditor
        self._clock = clock
        self._drain_rate = drain_rate
        self.workers = Workers(own, health_ttl)
        self.link = connect(self)
        self._desk = Desk(self.link, own.measure(), self.workers.__contains__, drain_rate, clock)
        self.held, self.book, self._known = self._desk.held, self._desk.book, self._desk.known
        self._predictor = own.predictor()
        self._view = nothing_yet(own)
        self._crossings = 0
        self._alone: LocalPool | None = None
        self._epoch = -1
        self._waiting = 0  # in the whole pool
        self._last_told, self._last_text = Mode.JOINING, ""
        self._stale = ""
        self._closed = False

    # -- the port: tickets -------------------------------------------------------------------------------------

    def start(self) -> None:
        self.link.start()

    async def submit(self, ticket: Ticket) -> Refusal | None:
        if self._closed:
            return CLOSED
        if self.mode is Mode.LOST and self._alone is None:
            return STORE_LOST
        held = self.held.add(ticket)
        refusal = await (self._queue_alone(self._alone, held) if self._alone else self._queue_shared(held))
        if refusal is not None:
            self.held.pop(ticket)
        return refusal

    async def _queue_alone(self, alone: LocalPool, held: Held) -> Refusal | None:
        refusal = await alone.submit(held.ticket)
        if refusal is None:
            held.turn = alone.waits_for(held.ticket)
        return refusal

    async def _queue_shared(self, held: Held) -> Refusal | None:
        self._desk.queue(held)
        return await held.queued

    async def turn(self, ticket: Ticket) -> Grant | Refusal:
        return await self.held[ticket].turn

    def charge(self, ticket: Ticket, produced: int) -> None:
        if self._alone is not None:
            self._alone.charge(ticket, produced)
        else:
            ticket.produced = max(ticket.produced, produced)
        self._desk.settle(ticket)

    def correct(self, ticket: Ticket, input_tokens: int, cached_tokens: int) -> None:
        if self._alone is not None:
            self._alone.correct(ticket, input_tokens, cached_tokens)
        else:
            ticket.input_tokens, ticket.cached_tokens = input_tokens, min(cached_tokens, input_tokens)
        self._desk.settle(ticket)

    def finish(self, ticket: Ticket) -> None:
        if self._alone is not None:
            self._alone.finish(ticket)
        else:
            self._predictor.observe(ticket)
        ticket.state = State.DONE
        self._desk.close(ticket, Finish)

    def leave(self, ticket: Ticket, *, consumed: bool) -> None:
        if self.held.find_ticket(ticket) is None:
            return
        consumed = consumed and ticket.state is State.RUNNING
        if self._alone is not None:
            self._alone.leave(ticket, consumed=consumed)
        ticket.state = State.CANCELLED
        if consumed:
            self._desk.close(ticket, Cancel)
        else:
            self._desk.undo(ticket)

    def requeue(self, ticket: Ticket) -> None:
        self.book.undo(ticket)
        if self._alone is not None:
            self._alone.requeue(ticket)
            self.held[ticket].turn = self._alone.waits_for(ticket)
        else:
            self._desk.requeue(ticket)

    # -- the port: workers -------------------------------------------------------------------------------------

    def overflowed(self, worker: str) -> None:
        if self._alone is not None:
            self._alone.overflowed(worker)
        self.link.tell(WorkerReport.of_overflow(worker))

    def failed(self, worker: str, *, reached: bool) -> None:
        if not reached:
            self.set_health(worker, False)
        self.on_failure(worker)

    def healthy(self, *, besides: frozenset[str] = frozenset()) -> bool:
        return self.workers.healthy(besides)

    def set_health(self, worker: str, healthy: bool) -> None:
        news = self.workers.set_health(worker, healthy)
        if self._alone is not None:
            self._alone.set_health(worker, healthy)
        if news:
            self.link.tell(self.workers.health_of(worker))
        elif healthy:
            self.link.mention(worker, self.workers.health_of(worker))

    def set_size(self, worker: str, slots: int, kv_tokens: int) -> None:
        self.workers.set_size(worker, slots, kv_tokens)
        if self._alone is not None:
            self._alone.set_size(worker, part_of(slots, self._known.peers), kv_tokens)
        for op in self.workers.sizes_of(worker):
            self.link.tell(op)

    def engine_waiting(self, worker: str, waiting: int) -> None:
        if self._alone is not None:
            self._alone.engine_waiting(worker, waiting)
        if waiting > MAY_WAIT:
            self.link.tell(WorkerReport.of_queue(worker, waiting))

    def retry_after(self) -> float:
        if self._alone is not None:
            return self._alone.retry_after()
        return self._drain_rate.retry_after(ceil(self._waiting / self._known.peers), self._clock())

    # -- the port: inspection and the end ----------------------------------------------------------------------

    def snapshot(self) -> tuple[Snapshot, list[Worker]]:
        if self._alone is not None:
            return self._alone.snapshot()
        return self._view.snapshot(held.ticket for held in self.held), list(self.workers.shown.values())

    def crossings(self) -> int:
        return self._crossings + (self._alone.crossings() if self._alone is not None else 0)

    def standing(self) -> Standing:
        lost = "closed" if self._closed_when_lost else "alone"
        mode = lost if self._last_told is Mode.LOST else self._last_told.value
        return Standing(mode, self._known.peers, self._stale)

    def idle(self) -> bool:
        return not self.held.running() and not self.held.waiting()

    def close(self) -> None:
        self._closed = True
        if self._alone is not None:
            self._alone.close()
        for held in self.held.waiting():
            self._desk.refuse(held, CLOSED)

    async def end(self) -> None:
        await self.link.leave()
        for held in self.held:
            held.stop_timer()

    # -- what the link asks and tells --------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        return self.settings.revision

    @property
    def lease_s(self) -> float:
        return self.settings.lease_s

    def joining(self) -> list[Op]:
        self.mode = Mode.JOINING
        self._come_back()
        return [self._desk.all_of_it(self.settings.text), *self.workers.reports()]

    def applied(self, reply: Reply, ops: list[Op]) -> None:
        if begins_epoch(ops):
            self._epoch = reply.epoch
            self._known.joined()
            self._enter(Mode.SHARED, "shares the queue with all replicas")
        self._known.peers = max(1, reply.replicas)
        self._waiting = reply.waiting
        self._desk.answered(ops, reply)
        for decision in reply.decisions:
            self.heard(decision)
        self._known.heard(reply.shares)

    def heard(self, decision: Decision) -> None:
        if self.mode is not Mode.SHARED or decision.epoch != self._epoch:
            return
        held = self.held.find(decision.ticket)
        if self._clock() >= self.link.lease_until:
            self.link.join_anew()
        elif held is None:
            self.link.tell(Undo(decision.ticket))
        elif held.ticket.state is State.WAITING:
            self._desk.decided(held, decision)

    def lost(self, reason: str) -> None:
        if self._alone is not None:
            return
        if self._closed_when_lost:
            self._enter(Mode.LOST, f"lost the store ({reason}) and refuses requests until it is back")
            for held in self.held.waiting():
                held.answer(None)  # it waits for the store, until its own timeout
            return
        self._enter(Mode.LOST, f"lost the store ({reason}) and goes on alone with 1/{self._known.peers} of the room")
        self._go_alone()

    def adopt(self, text: str) -> bool:
        found = read_settings(text)
        self._compare(found)
        if found.revision <= self.settings.revision:
            return False
        logger.info("pool %s: follows revision %d of the configuration", self.name, found.revision)
        same, self.settings = found.same_prices(self.settings), found
        self._desk.price_by(found.measure(), self._weights)
        self._predictor = found.predictor()
        return not same

    def inspected(self, data: dict[str, Any]) -> None:
        self._view = View(self.settings, data)
        self.workers.seen(self._view)
        if self._view.crossed():
            self._crossings += 1
            logger.warning("pool %s: the counters are %g apart, over the bound", self.name, self._view.gap)

    # -- inside ------------------------------------------------------------------------------------------------

    def _granted_alone(self, grant: Grant) -> None:
        self._desk.granted_alone(grant.ticket, self._weights(grant.ticket))

    def _enter(self, mode: Mode, text: str) -> None:
        self.mode = mode
        if text != self._last_text:
            log = logger.warning if mode is Mode.LOST else logger.info
            log("pool %s %s", self.name, text)
        self._last_told, self._last_text = mode, text

    def _go_alone(self) -> None:
        running, waiting = self.held.running(), self.held.waiting()
        parts = self._known.peers
        self._alone = pool_alone(
            self.name,
            self.settings,
            self._known,
            net_counters(self._known, running, self._desk.charged),
            PartRoom(self.workers.whole(), parts, self._adapters),
            self._predictor,
            auditor=self._auditor(),
            clock=self._clock,
            drain_rate=self._drain_rate,
        )
        self._alone.on_grant = self._granted_alone
        for held in waiting:
            held.stop_timer()
        move_in(self._alone, running, waiting)
        for held in waiting:
            held.answer(_result_if_refused(held))

    def _come_back(self) -> None:
        """From the time alone, with all that is held."""
        alone, self._alone = self._alone, None
        if alone is None:
            return
        self._crossings += alone.crossings()
        snapshot = alone.scheduler.snapshot()
        counters = {path: round(state.counter * 1000) for path, state in (snapshot.tenants | snapshot.groups).items()}
        self._known.reached(counters, round(snapshot.lift_target * 1000))
        alone.hand_back()
        self._desk.take_back()

    def _weights(self, ticket: Ticket) -> list[float]:
        """Of a tenant and the groups above it, bottom up."""
        settings = self.settings
        levels = paths(ticket.tenant, settings.policy.tree)
        return [settings.weights.get(path.removesuffix("/"), settings.default_weight) for path in levels]

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


def _result_if_refused(held: Held) -> Refusal | None:
    result = held.turn.result() if held.turn.done() and not held.turn.cancelled() else None
    return result if isinstance(result, Refusal) else None
