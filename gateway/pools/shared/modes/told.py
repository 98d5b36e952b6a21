"""What the modes have in common in which the store decides, or will when it is back."""

from __future__ import annotations

from math import ceil

from fairness import Refusal, Snapshot, Ticket, Worker
from gateway.pools.port import CLOSED
from gateway.pools.shared.holdings import Held
from gateway.pools.shared.modes.port import ReplicaState
from gateway.pools.shared.protocol import Decision, WorkerReport
from gateway.pools.slots import MAY_WAIT


class Told:
    """What happens here is told to the store (a link that has lost it drops that: the next join tells it all). Here a
    ticket is only counted, so that the book agrees with the store's. Decisions are not obeyed."""

    name: str

    def __init__(self, state: ReplicaState) -> None:
        self._state = state

    async def submit(self, held: Held) -> Refusal | None:
        self._state.desk.queue(held)
        return await held.queued

    def charge(self, ticket: Ticket, produced: int) -> None:
        ticket.produced = max(ticket.produced, produced)
        self._state.desk.settle(ticket)

    def correct(self, ticket: Ticket, input_tokens: int, cached_tokens: int) -> None:
        ticket.input_tokens, ticket.cached_tokens = input_tokens, min(cached_tokens, input_tokens)
        self._state.desk.settle(ticket)

    def finish(self, ticket: Ticket) -> None:
        self._state.predictor.observe(ticket)
        self._state.desk.finish(ticket)

    def leave(self, ticket: Ticket, *, consumed: bool) -> None:
        self._state.desk.leave(ticket, consumed=consumed)

    def requeue(self, ticket: Ticket) -> None:
        self._state.desk.requeue(ticket)

    def overflowed(self, worker: str) -> None:
        self._state.link.tell(WorkerReport.of_overflow(worker))

    def set_health(self, worker: str, healthy: bool) -> None:
        state = self._state
        if state.workers.set_health(worker, healthy):
            state.link.tell(state.workers.health_of(worker))
        elif healthy:
            state.link.mention(worker, state.workers.health_of(worker))

    def set_size(self, worker: str, slots: int, kv_tokens: int) -> None:
        self._state.workers.set_size(worker, slots, kv_tokens)
        for report in self._state.workers.sizes_of(worker):
            self._state.link.tell(report)

    def engine_waiting(self, worker: str, waiting: int) -> None:
        if waiting > MAY_WAIT:
            self._state.link.tell(WorkerReport.of_queue(worker, waiting))

    def heard(self, decision: Decision) -> None:
        """It was made in an epoch that is over, or before this one began."""

    def retry_after(self) -> float:
        """As for this replica's part of what waits in the whole pool."""
        state = self._state
        return state.drain_rate.retry_after(ceil(state.waiting / state.desk.known.peers), state.clock())

    def snapshot(self) -> tuple[Snapshot, list[Worker]]:
        state = self._state
        held = (one.ticket for one in state.desk.held)
        return state.view.snapshot(held), list(state.workers.shown.values())

    def crossings(self) -> int:
        return 0

    def close(self) -> None:
        for held in self._state.desk.held.waiting():
            self._state.desk.refuse(held, CLOSED)

    def end(self) -> None:
        """There is nothing that only this mode knows."""
