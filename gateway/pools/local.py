"""A pool whose state lives in this process.

One dispatcher owns the queue. It wakes on arrival, completion and capacity change, never on a tick, and picks until
nothing fits; picking reserves the room and charges the input in the same synchronous step (`Scheduler.pick`). Its one
timer is the next queue deadline.

Charges are gathered: `charge` notes the total of a ticket, and the law hears of all that was noted before it is asked
anything: before a ticket joins, is picked, corrected, finished or leaves, and before anybody looks. So it decides as
if it had heard of each token at once, and a stream of 100 events costs it one charge where nothing was decided
meanwhile. Where nothing is asked for long it hears after `GATHER_S`, so that its alarm is not late. Of the first tokens
of a ticket it hears at once: when they came is what an objective learns from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from math import inf

from fairness import Grant, Refusal, Scheduler, Snapshot, State, Ticket, Worker
from gateway.pools.drain_rate import DrainRate
from gateway.pools.port import CLOSED, EXPIRED, TOO_LARGE_NOW, Standing, Turn, resolve
from gateway.pools.room import HealthyRoom
from gateway.pools.slots import SlotLimit

GATHER_S = 0.1


class LocalPool:
    """Must be used from one event loop."""

    def __init__(
        self, name: str, scheduler: Scheduler, room: HealthyRoom, *, clock: Callable[[], float], drain_rate: DrainRate
    ) -> None:
        self.name = name
        self._law = scheduler
        self._seen: dict[Ticket, int] = {}  # -> output tokens the law has not heard of yet
        self._telling: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._room = room
        self._clock = clock
        self._drain_rate = drain_rate
        self._limits = {worker.id: SlotLimit(worker.slots) for worker in room.workers.values()}
        self._turns: dict[Ticket, Turn] = {}
        self._woken: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._resumes: dict[str, asyncio.TimerHandle] = {}
        self._closed = False
        self.on_failure: Callable[[str], None] = lambda worker: None
        self.on_grant: Callable[[Grant], None] = lambda grant: None

    @property
    def scheduler(self) -> Scheduler:
        """The law, which has heard of everything."""
        if self._seen:
            self._tell()
        return self._law

    # -- the port ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Nothing is to be done: the dispatcher wakes when there is work."""

    async def submit(self, ticket: Ticket) -> Refusal | None:
        if self._closed:
            return CLOSED
        if self._room.must_wait_for_another(ticket):
            return TOO_LARGE_NOW
        refusal = self.scheduler.submit(ticket, self._clock())
        if refusal is None:
            self._await_turn(ticket)
            self._dispatch_now()
        return refusal

    async def turn(self, ticket: Ticket) -> Grant | Refusal:
        return await self._turns[ticket]

    def charge(self, ticket: Ticket, produced: int) -> None:
        if not ticket.produced:
            self._law.charge(ticket, produced, self._clock())
            return
        self._seen[ticket] = produced
        if self._telling is None:
            self._telling = self._loop.call_later(GATHER_S, self._tell)

    def correct(self, ticket: Ticket, input_tokens: int, cached_tokens: int) -> None:
        self.scheduler.correct(ticket, input_tokens, cached_tokens)
        self._wake()

    def finish(self, ticket: Ticket) -> None:
        self._limits[ticket.worker].served()
        self._apply_limit(ticket.worker)
        self.scheduler.finish(ticket)
        self._forget(ticket)

    def leave(self, ticket: Ticket, *, consumed: bool) -> None:
        if ticket.state is State.RUNNING and not consumed:
            self.scheduler.requeue(ticket)
        if ticket.state in (State.RUNNING, State.WAITING):
            self.scheduler.cancel(ticket)
        self._forget(ticket)

    def requeue(self, ticket: Ticket) -> None:
        self.scheduler.requeue(ticket)
        self._await_turn(ticket)
        self._refuse_if_too_large(ticket)
        self._wake()

    def overflowed(self, worker: str) -> None:
        hold = self._limits[worker].overflowed(self._room.workers[worker].running - 1)
        self._apply_limit(worker)
        if earlier := self._resumes.pop(worker, None):
            earlier.cancel()
        self._resumes[worker] = self._loop.call_later(hold, self._resume, worker)

    def failed(self, worker: str, *, reached: bool) -> None:
        if not reached:
            self.set_health(worker, False)
        self.on_failure(worker)

    def healthy(self, *, besides: frozenset[str] = frozenset()) -> bool:
        for worker in self._room.workers.values():  # noqa: SIM110 - a generator costs more than all of this
            if worker.healthy and worker.id not in besides:
                return True
        return False

    def retry_after(self) -> float:
        return self._drain_rate.retry_after(self.scheduler.queue_length(), self._clock())

    # -- what is known of the workers --------------------------------------------------------------------------

    def set_health(self, worker: str, healthy: bool) -> None:
        if self._room.workers[worker].healthy is not healthy:
            self._room.set_worker(worker, healthy=healthy)
            self._refuse_the_too_large()
            self._wake()

    def set_size(self, worker: str, slots: int, kv_tokens: int) -> None:
        self._limits[worker].resize(slots)
        self._room.set_worker(worker, tokens=kv_tokens)
        self._refuse_the_too_large()
        self._apply_limit(worker)

    def engine_waiting(self, worker: str, waiting: int) -> None:
        self._limits[worker].waiting(waiting, self._room.workers[worker].running)
        self._apply_limit(worker)

    def snapshot(self) -> tuple[Snapshot, list[Worker]]:
        return self.scheduler.snapshot(), list(self._room.workers.values())

    def idle(self) -> bool:
        return not self.scheduler.queue_length() and not any(w.running for w in self._room.workers.values())

    def crossings(self) -> int:
        return self.scheduler.auditor.crossings if self.scheduler.auditor is not None else 0

    def standing(self) -> Standing:
        return Standing()

    def replica_book(self) -> None:
        """The scheduler's counters are all there is."""

    def close(self) -> None:
        self._closed = True
        for ticket, turn in list(self._turns.items()):
            if ticket.state is State.WAITING:
                self.scheduler.cancel(ticket)
                resolve(turn, CLOSED)
        self._stop()

    async def end(self) -> None:
        """Nothing is held outside this process."""

    # -- requests that come from another pool and go back there ------------------------------------------------

    def adopt(self, running: Iterable[Ticket], waiting: Mapping[Ticket, Turn], arriving: Mapping[Ticket, Turn]) -> None:
        """Go on with tickets of another pool: `running` by their dispatch, `waiting` in its queue, the oldest first,
        and `arriving`, which it had not queued yet: they come after all turns that those who waited can have now, so
        that they are lifted like any newcomer's (see `Scheduler.seed`). What cannot be queued here hears why."""
        for ticket in running:
            ticket.state = State.NEW
            self.scheduler.resume(ticket, ticket.worker)
        self._queue_again(waiting)
        self._dispatch_now()
        self._queue_again(arriving)

    def _queue_again(self, tickets: Mapping[Ticket, Turn]) -> None:
        for ticket, turn in tickets.items():
            ticket.state = State.NEW
            refusal = self.scheduler.submit(ticket, self._clock())
            if refusal is None:
                self._await_turn(ticket, turn)
                self._refuse_if_too_large(ticket)
                self._wake()
            else:
                ticket.state = State.CANCELLED
                resolve(turn, refusal)

    def waits_for(self, ticket: Ticket) -> Turn:
        """The turn of a ticket that was queued here."""
        return self._turns[ticket]

    def hand_back(self) -> None:
        """Stop, and leave all tickets and turns as they stand."""
        self._closed = True
        self._stop()

    def _stop(self) -> None:
        self._tell()
        for handle in (self._woken, self._timer, self._telling, *self._resumes.values()):
            if handle is not None:
                handle.cancel()

    # -- the dispatcher ----------------------------------------------------------------------------------------

    def _tell(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        if self._seen:
            now = self._clock()
            for ticket, produced in self._seen.items():
                self._law.charge(ticket, produced, now)
            self._seen.clear()

    def _await_turn(self, ticket: Ticket, turn: Turn | None = None) -> None:
        self._turns[ticket] = turn or self._loop.create_future()
        if ticket.deadline != inf and (self._timer is None or self._timer.when() > ticket.deadline):
            self._set_timer(ticket.deadline)

    def _forget(self, ticket: Ticket) -> None:
        self._turns.pop(ticket, None)
        self._wake()

    def _wake(self) -> None:
        if self._woken is None and not self._closed:
            self._woken = self._loop.call_soon(self._dispatch)

    def _dispatch_now(self) -> None:
        if self._woken is not None:
            self._woken.cancel()
        self._dispatch()

    def _dispatch(self) -> None:
        self._woken = None
        now = self._clock()
        law = self.scheduler
        while (grant := law.pick(now)) is not None:
            self._drain_rate.dispatched(now)
            self.on_grant(grant)
            resolve(self._turns[grant.ticket], grant)

    def _refuse_the_too_large(self) -> None:
        """What no healthy worker can ever take would block all others as soon as it is the head."""
        for ticket in list(self._turns):
            self._refuse_if_too_large(ticket)

    def _refuse_if_too_large(self, ticket: Ticket) -> None:
        if ticket.state is State.WAITING and self._room.must_wait_for_another(ticket):
            self.scheduler.cancel(ticket)
            resolve(self._turns[ticket], TOO_LARGE_NOW)

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._expire) if when != inf else None

    def _expire(self) -> None:
        self._timer = None
        for ticket in self.scheduler.expire(self._clock()):
            resolve(self._turns[ticket], EXPIRED)
        self._set_timer(self.scheduler.next_deadline())
        self._wake()

    def _resume(self, worker: str) -> None:
        self._resumes.pop(worker, None)
        self._limits[worker].resume()
        self._apply_limit(worker)

    def _apply_limit(self, worker: str) -> None:
        if self._room.workers[worker].slots != self._limits[worker].limit:
            self._room.set_worker(worker, slots=self._limits[worker].limit)
            self._wake()
