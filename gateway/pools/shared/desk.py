"""The tickets of one replica between their clients and the store: queued, granted, settled, over.

What the store decides is done here to ticket, turn and book; what happens to a ticket here is told to the store.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from math import inf

from fairness import Balances, Book, CostFunction, Grant, Refusal, State, Ticket, paths
from gateway.pools.drain_rate import DrainRate
from gateway.pools.port import EXPIRED, resolve
from gateway.pools.shared.holdings import Held, Holdings
from gateway.pools.shared.known import Known
from gateway.pools.shared.link import Link
from gateway.pools.shared.protocol import (
    Cancel,
    Charge,
    Decision,
    Finish,
    Op,
    Reply,
    Requeue,
    Submit,
    Undo,
    refusal_of,
    tickets_to_queue,
)

UNKNOWN_WORKER = Refusal("no_large_worker", "only workers that this gateway's configuration does not name are free")


class Desk:
    """`measure` is what the policy charges, `knows` says which workers this gateway can reach."""

    def __init__(
        self,
        link: Link,
        measure: CostFunction,
        knows: Callable[[str], bool],
        drain_rate: DrainRate,
        clock: Callable[[], float],
    ) -> None:
        self.link = link
        self.held = Holdings(link.name.rpartition("-")[2])
        self.book = Book(measure)
        self.known = Known(self.book.total)
        self._knows = knows
        self._drain_rate = drain_rate
        self._clock = clock

    # -- what happens here -------------------------------------------------------------------------------------

    def queue(self, held: Held) -> None:
        ticket = held.ticket
        self.wait(held)
        self.link.tell(Submit(held.id, ticket.tenant, ticket.input_tokens, ticket.max_tokens))

    def wait(self, held: Held) -> None:
        """It waits for its turn, until its deadline."""
        held.ticket.state = State.WAITING
        held.stop_timer()
        if held.ticket.deadline != inf:
            loop = asyncio.get_running_loop()
            held.timer = loop.call_at(held.ticket.deadline, self.refuse, held, EXPIRED)

    def refuse(self, held: Held, refusal: Refusal) -> None:
        """A ticket that waits leaves; its turn will not come."""
        held.stop_timer()
        if held.ticket.state is State.WAITING:
            held.ticket.state = State.CANCELLED
            self.link.tell(Undo(held.id))
            held.answer(refusal)
            resolve(held.turn, refusal)

    def settle(self, ticket: Ticket) -> None:
        """Its tokens were counted anew."""
        self.book.settle(ticket)
        self.link.charge(Charge(self.held[ticket].id, ticket.input_tokens, ticket.cached_tokens, ticket.produced))

    def requeue(self, ticket: Ticket) -> None:
        """The dispatch is undone, and it waits again."""
        self.book.undo(ticket)
        held = self.held[ticket]
        ticket.produced = ticket.predicted = ticket.cached_tokens = 0
        ticket.worker = ""
        held.turn = asyncio.get_running_loop().create_future()
        self.wait(held)
        self.link.drop_charge(held.id)
        self.link.tell(Requeue(held.id, sorted(ticket.avoid)))

    def finish(self, ticket: Ticket) -> None:
        """It was served to its end."""
        ticket.state = State.DONE
        self._close(ticket, Finish)

    def leave(self, ticket: Ticket, *, consumed: bool) -> None:
        """It is over. With `consumed` it ran, and stays charged; without it is as if it had never been dispatched."""
        ticket.state = State.CANCELLED
        if consumed:
            self._close(ticket, Cancel)
        elif (held := self._let_go(ticket)) is not None:
            self.book.undo(ticket)
            self.link.tell_soon(Undo(held.id))

    def _close(self, ticket: Ticket, how: type[Finish | Cancel]) -> None:
        if (held := self._let_go(ticket)) is not None:
            self.book.close(ticket)
            self.link.tell_soon(how(held.id, ticket.input_tokens, ticket.cached_tokens, ticket.produced))

    def _let_go(self, ticket: Ticket) -> Held | None:
        held = self.held.pop(ticket)
        if held is not None:
            held.answer(None)
            self.link.drop_charge(held.id)
        return held

    # -- what the store decided --------------------------------------------------------------------------------

    def answered(self, ops: list[Op], reply: Reply) -> None:
        """The tickets that `ops` were to queue have been queued or refused."""
        for ticket_id in tickets_to_queue(ops):
            if (held := self.held.find(ticket_id)) is not None:
                self._queued(held, reply.refusals.get(ticket_id), reply.queued.get(ticket_id, held.seq))

    def decided(self, held: Held, decision: Decision) -> None:
        """A ticket that waits has its turn, or hears why there is none."""
        ticket = held.ticket
        if decision.refused:
            self._drop(held, refusal_of(decision))
            return
        if not self._knows(decision.worker):
            self._shun(held, decision.worker)
            return
        held.stop_timer()
        ticket.state, ticket.worker, ticket.predicted = State.RUNNING, decision.worker, decision.predicted
        held.seq, held.number = decision.seq, decision.number
        self.known.turned(decision.seq, decision.number)
        self.book.open(ticket, decision.weights)
        self._drain_rate.dispatched(self._clock())
        resolve(held.turn, Grant(ticket, decision.worker))

    def _queued(self, held: Held, refusal: Refusal | None, seq: int) -> None:
        held.seq = seq
        self.known.turned(seq, -1)
        if refusal is not None:
            self._drop(held, refusal)
        held.answer(refusal)

    def _drop(self, held: Held, refusal: Refusal) -> None:
        held.stop_timer()
        held.ticket.state = State.CANCELLED
        resolve(held.turn, refusal)

    def _shun(self, held: Held, worker: str) -> None:
        """A newer configuration has a worker that this gateway does not know."""
        if worker in held.ticket.avoid:
            self.refuse(held, UNKNOWN_WORKER)
            return
        held.ticket.avoid |= {worker}
        self.link.tell(Requeue(held.id, sorted(held.ticket.avoid)))

    # -- alone, and back again ---------------------------------------------------------------------------------

    def granted_alone(self, ticket: Ticket, weights: list[float]) -> None:
        self.held[ticket].number = self.known.next_number()
        self.book.open(ticket, weights)

    def balances(self) -> Balances:
        """Where a scheduler in this process begins: it will charge again what runs, when that is resumed."""
        in_flight = self._in_flight()
        counters = self.known.counters(in_flight)
        net = {path: max(0, counter - in_flight[path]) for path, counter in counters.items()}
        return Balances(net, self.known.lift_targets())

    def reached(self, balances: Balances) -> None:
        """What that scheduler came to, exported before it ends."""
        in_flight = self._in_flight()
        counters = {path: counter + in_flight[path] for path, counter in balances.counters.items()}
        self.known.reached(counters, balances.lift_targets)

    def _in_flight(self) -> Counter[str]:
        """What the tickets that run have been charged, by path, in thousandths."""
        total: Counter[str] = Counter()
        for held in self.held.running():
            charged = self.book.charged(held.ticket)
            total.update(dict(zip(paths(held.ticket.tenant, tree=len(charged) != 1), charged, strict=True)))
        return total

    def take_back(self) -> None:
        """All tickets, from a pool that has ended."""
        for held in self.held:
            held.ticket.accounts, held.ticket.reserved = (), 0
            if held.ticket.state is State.WAITING:
                self.wait(held)

    def price_by(self, measure: CostFunction, weights_of: Callable[[str], list[float]]) -> None:
        """New prices. A ticket whose levels are others now, because its policy has a tree and the last had none, or
        the other way round, counts as if it had been dispatched under the new one."""
        self.book.price_by(measure)
        for held in self.held.running():
            weights = weights_of(held.ticket.tenant)
            if len(weights) != len(self.book.weights(held.ticket)):
                self.book.undo(held.ticket)
                self.book.open(held.ticket, weights)
