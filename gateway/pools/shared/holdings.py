"""The tickets that this replica holds: those whose clients are connected here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from fairness import Refusal, State, Ticket
from gateway.pools.port import Turn


@dataclass(slots=True, eq=False)
class Held:
    """`id` is the ticket's name on the wire, of this process alone, whatever ids clients send. `queued` is answered
    when the store has queued or refused the ticket; `seq` and `number` are its place in the queue and its dispatch, as
    far as known (-1)."""

    ticket: Ticket
    id: str
    turn: Turn
    queued: asyncio.Future[Refusal | None]
    seq: int = -1
    number: int = -1
    timer: asyncio.TimerHandle | None = None

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def answer(self, refusal: Refusal | None) -> None:
        """It was queued, or refused."""
        if not self.queued.done():
            self.queued.set_result(refusal)


class Holdings:
    """By ticket and by wire id, in the order of arrival."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._count = 0
        self._by_ticket: dict[Ticket, Held] = {}
        self._by_id: dict[str, Held] = {}

    def __len__(self) -> int:
        return len(self._by_ticket)

    def __iter__(self) -> Iterator[Held]:
        return iter(list(self._by_ticket.values()))

    def __getitem__(self, ticket: Ticket) -> Held:
        return self._by_ticket[ticket]

    def add(self, ticket: Ticket) -> Held:
        loop = asyncio.get_running_loop()
        self._count += 1
        held = Held(ticket, f"{self._prefix}:{self._count}", loop.create_future(), loop.create_future())
        self._by_ticket[ticket] = self._by_id[held.id] = held
        return held

    def find_ticket(self, ticket: Ticket) -> Held | None:
        return self._by_ticket.get(ticket)

    def find(self, wire_id: str) -> Held | None:
        return self._by_id.get(wire_id)

    def pop(self, ticket: Ticket) -> Held | None:
        held = self._by_ticket.pop(ticket, None)
        if held is not None:
            held.stop_timer()
            del self._by_id[held.id]
        return held

    def count_waiting(self) -> int:
        return sum(ticket.state is State.WAITING for ticket in self._by_ticket)

    def running(self) -> list[Held]:
        """By their dispatch."""
        return sorted((held for held in self if held.ticket.state is State.RUNNING), key=lambda held: held.number)

    def waiting(self) -> list[Held]:
        """The oldest first: those whose place in the queue is known, then by arrival."""
        held = [held for held in self if held.ticket.state is State.WAITING]
        return sorted(held, key=lambda one: (one.seq < 0, one.seq))
