"""ALONE: the store is lost, and this replica decides by itself over its share of the room."""

from __future__ import annotations

from fairness import Auditor, Grant, Refusal, Snapshot, Ticket, Worker
from gateway.pools.local import LocalPool
from gateway.pools.port import Turn
from gateway.pools.settings import scheduler_of
from gateway.pools.shared.holdings import Held
from gateway.pools.shared.modes.port import ReplicaState
from gateway.pools.shared.part_room import PartRoom, part_of
from gateway.pools.shared.protocol import Decision


class Alone:
    """A pool in this process that begins where the shared one was: with the tickets that are held, the counters that
    are known, and 1/n of the room, where n replicas were seen last. `adapters`: those the pool serves."""

    name = "alone"

    def __init__(self, state: ReplicaState, adapters: int, auditor: Auditor) -> None:
        self._state = state
        running, waiting = state.desk.held.running(), state.desk.held.waiting()
        room = PartRoom(state.workers.whole(), state.desk.known.peers, adapters)
        scheduler = scheduler_of(state.settings, room, auditor=auditor, predictor=state.predictor, parts=room.parts)
        scheduler.seed(state.desk.balances())
        self._pool = LocalPool(state.pool, scheduler, room, clock=state.clock, drain_rate=state.drain_rate)
        self._pool.on_grant = self._granted
        self._move_in(running, waiting)

    # -- tickets -------------------------------------------------------------------------------------------------

    async def submit(self, held: Held) -> Refusal | None:
        refusal = await self._pool.submit(held.ticket)
        if refusal is None:
            held.turn = self._pool.waits_for(held.ticket)
        held.answer(refusal)
        return refusal

    def charge(self, ticket: Ticket, produced: int) -> None:
        self._pool.charge(ticket, produced)
        self._state.desk.settle(ticket)

    def correct(self, ticket: Ticket, input_tokens: int, cached_tokens: int) -> None:
        self._pool.correct(ticket, input_tokens, cached_tokens)
        self._state.desk.settle(ticket)

    def finish(self, ticket: Ticket) -> None:
        self._pool.finish(ticket)
        self._state.desk.finish(ticket)

    def leave(self, ticket: Ticket, *, consumed: bool) -> None:
        self._pool.leave(ticket, consumed=consumed)
        self._state.desk.leave(ticket, consumed=consumed)

    def requeue(self, ticket: Ticket) -> None:
        desk = self._state.desk
        desk.book.undo(ticket)
        self._pool.requeue(ticket)
        desk.held[ticket].turn = self._pool.waits_for(ticket)

    def heard(self, decision: Decision) -> None:
        """The store decides no more: its part of the room may be somebody else's by now."""

    # -- workers -------------------------------------------------------------------------------------------------

    def overflowed(self, worker: str) -> None:
        self._pool.overflowed(worker)

    def set_health(self, worker: str, healthy: bool) -> None:
        self._state.workers.set_health(worker, healthy)
        self._pool.set_health(worker, healthy)

    def set_size(self, worker: str, slots: int, kv_tokens: int) -> None:
        self._state.workers.set_size(worker, slots, kv_tokens)
        self._pool.set_size(worker, part_of(slots, self._state.desk.known.peers), kv_tokens)

    def engine_waiting(self, worker: str, waiting: int) -> None:
        self._pool.engine_waiting(worker, waiting)

    # -- inspection and the end ----------------------------------------------------------------------------------

    def retry_after(self) -> float:
        return self._pool.retry_after()

    def snapshot(self) -> tuple[Snapshot, list[Worker]]:
        return self._pool.snapshot()

    def crossings(self) -> int:
        return self._pool.crossings()

    def close(self) -> None:
        self._pool.close()

    def end(self) -> None:
        """The way back: tickets and counters are the replica's again, and its book has what the law was told since."""
        desk = self._state.desk
        desk.reached(self._pool.scheduler.export())
        for held in desk.held.running():
            desk.book.settle(held.ticket)
        self._pool.hand_back()
        desk.take_back()

    # -- inside --------------------------------------------------------------------------------------------------

    def _move_in(self, running: list[Held], waiting: list[Held]) -> None:
        """What waited has been admitted before: a policy with a rate limit counts what comes from now on."""
        for held in waiting:
            held.stop_timer()
        scheduler = self._pool.scheduler
        policy = scheduler.policy
        scheduler.policy = policy.unlimited()
        queued, on_the_way = _turns(waiting, queued=True), _turns(waiting, queued=False)
        self._pool.adopt((held.ticket for held in running), queued, on_the_way)
        scheduler.policy = policy
        for held in waiting:
            held.answer(_refusal_of(held))

    def _granted(self, grant: Grant) -> None:
        ticket = grant.ticket
        self._state.desk.granted_alone(ticket, self._state.settings.weights_of(ticket.tenant))


def _turns(waiting: list[Held], *, queued: bool) -> dict[Ticket, Turn]:
    """Of those that a queue has had, or those whose submit was never answered."""
    return {held.ticket: held.turn for held in waiting if held.queued.done() is queued}


def _refusal_of(held: Held) -> Refusal | None:
    """Why it could not be queued here; None when it waits."""
    result = held.turn.result() if held.turn.done() and not held.turn.cancelled() else None
    return result if isinstance(result, Refusal) else None
