"""The two machines side by side: `fairness.Scheduler` in memory, the Lua in a server, driven by the same operations.

Every batch is compared at once: what was refused, who got which turn on which worker, and all state.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import redis

from fairness import Book, Refusal, Scheduler, State, Ticket, Worker, parse_policy, parse_predictor
from gateway.pools.room import HealthyRoom

from .calls import HEALTH_MS, REPLICAS, WORKERS, Setup, Store, cost_of


def without_zeros(totals: dict[str, int]) -> dict[str, int]:
    return {path: total for path, total in totals.items() if total}


def in_order(decisions: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Turns in the order they were given; refusals, which no number orders over several streams, first."""
    return sorted(d for d in decisions if len(d) == 2) + [d for d in decisions if len(d) == 3]


@dataclass
class Replica:
    """What one replica holds and remembers: its tickets, its book, and what replies told it."""

    book: Book
    places: dict[str, int] = field(default_factory=dict)  # ticket id -> sequence number
    numbers: dict[str, int] = field(default_factory=dict)  # ticket id -> dispatch number
    shares: dict[str, list[int]] = field(default_factory=dict)

    def hear(self, answer: list[Any]) -> None:
        self.shares |= {path: [int(n) for n in rest] for path, *rest in answer[11]}
        self.places |= dict(answer[12])

    def known(self) -> dict[str, Any]:
        seq, number = max(self.places.values(), default=-1), max(self.numbers.values(), default=-1)
        return {"seq": seq + 1, "number": number + 1, "shares": self.shares}


class Twin:
    """Applies batches to both machines. Raises AssertionError where they differ."""

    def __init__(self, client: redis.Redis[bytes], name: str, setup: Setup) -> None:
        self.setup = setup
        self.store = Store(client, name, setup)
        self.room = HealthyRoom([Worker(w, s, t) for w, (s, t) in WORKERS.items()], dict.fromkeys(WORKERS, 99))
        self.scheduler = Scheduler(
            parse_policy(setup.policy),
            cost_of(setup.cost),
            self.room,
            weights=setup.weights,
            predictor=parse_predictor(setup.predict),
            max_waiting=40,
            max_waiting_per_tenant=12,
            tenant_bounds={"b": 5},
        )
        measured = self.scheduler.policy.measure(cost_of(setup.cost))
        self.replicas = {name: Replica(Book(measured)) for name in REPLICAS}
        self.owner: dict[Ticket, str] = {}
        self.tickets: dict[str, Ticket] = {}
        self.remembers_exposure = True
        for replica in REPLICAS:
            assert self.store.join(replica)[0] == "ok"
        self._report_health(REPLICAS[0])

    # -- what may be done --------------------------------------------------------------------------------------

    def live(self, replica: str, *states: State) -> list[Ticket]:
        return [t for t in self.tickets.values() if self.owner[t] == replica and t.state in states]

    def batch(self, replica: str, operations: list[tuple[Any, ...]], *, repeat: bool = False) -> None:
        """`operations` as the store takes them. With `repeat` it is sent a second time, as after a lost answer."""
        answer = self.store.call(replica, *operations)
        assert answer[0] == "ok"
        refused: list[tuple[str, str]] = []
        for operation in operations:
            refused += self._do(replica, operation, answer[1] / 1000)
        assert [(item[0], item[1]) for item in answer[9]] == refused
        self._hear(replica, answer)
        if repeat:
            assert self.store.call(replica, *operations, batch=self.store.batches[replica]) == answer
        self.compare()

    def rejoin(self, replica: str, *, peers: int = 1) -> None:
        """It tells all it holds; to a store that knows, that is nothing new."""
        answer = self.store.join(replica, **self.state(replica), peers=peers)
        assert answer[0] == "ok"
        self._hear(replica, answer)

    def forget(self, copy: dict[bytes, bytes], order: list[str]) -> None:
        """The store comes back with other data (none: empty), and every replica joins, in that order."""
        self.store.become(copy)
        self.remembers_exposure = False
        for replica in order:
            assert self.store.call(replica)[0] == "rejoin"
            self.rejoin(replica, peers=len(order))
            self._report_health(replica)
        for replica in order:  # their next heartbeats: whoever came before the gathering began is counted now
            self._hear(replica, self.store.call(replica))
        self.compare()

    def state(self, replica: str) -> dict[str, Any]:
        """What it says when it joins."""
        mine = self.replicas[replica]
        return {
            "running": [self._running(mine, t) for t in self.live(replica, State.RUNNING)],
            "waiting": [
                {
                    "id": t.id,
                    "tenant": t.tenant,
                    "n_in": t.input_tokens,
                    "max": t.max_tokens,
                    "seq": mine.places[t.id],
                    "avoid": sorted(t.avoid),
                }
                for t in self.live(replica, State.WAITING)
            ],
            "book": mine.book.totals(),
            "joined": True,
            "known": mine.known(),
        }

    def _running(self, mine: Replica, ticket: Ticket) -> dict[str, Any]:
        return {
            "id": ticket.id,
            "tenant": ticket.tenant,
            "n_in": ticket.input_tokens,
            "cached": ticket.cached_tokens,
            "max": ticket.max_tokens,
            "produced": ticket.produced,
            "predicted": ticket.predicted,
            "worker": ticket.worker,
            "number": mine.numbers[ticket.id],
            "seq": mine.places[ticket.id],
            "avoid": sorted(ticket.avoid),
            "weights": mine.book.weights(ticket),
            "charged": mine.book.charged(ticket),
        }

    def _report_health(self, replica: str) -> None:
        reports = [
            ["worker", w.id, {"healthy": w.healthy, "ttl_ms": HEALTH_MS, "slots": w.slots, "tokens": w.tokens}]
            for w in self.room.workers.values()
        ]
        self._hear(replica, self.store.call(replica, *reports))

    def _hear(self, replica: str, answer: list[Any]) -> None:
        """Compare what the store decided with what memory decides."""
        self.replicas[replica].hear(answer)
        decided = self._pick()
        told = [json.loads(grant) for grant in answer[10]]
        for other in REPLICAS:
            told += self.store.granted_to(other) if other != replica else []
        assert self._as_decisions(told) == in_order(decided), (told, decided)
        for grant in told:
            if "number" in grant:
                self._granted(grant)

    def _granted(self, grant: dict[str, Any]) -> None:
        ticket = self.tickets[grant["ticket"]]
        mine = self.replicas[self.owner[ticket]]
        mine.numbers[ticket.id] = grant["number"]
        mine.book.open(ticket, [float(weight) for weight in grant["weights"]])

    # -- the machine in memory ---------------------------------------------------------------------------------

    def _do(self, replica: str, operation: tuple[Any, ...], now: float) -> list[tuple[str, str]]:
        name, *arguments = operation
        if name == "submit":
            return self._submit(replica, *arguments, now)
        if name == "worker":
            self._worker(*arguments)
            return []
        ticket = self.tickets.get(arguments[0])
        if ticket is not None:
            getattr(self, f"_{name}")(ticket, *arguments[1:])
        return []

    def _submit(self, replica: str, name: str, tenant: str, n_in: int, most: int, now: float) -> list[tuple[str, str]]:
        ticket = Ticket(name, tenant, n_in, most)
        refusal: Refusal | None = None
        if n_in + 1 > self.room.capacity().largest:
            larger = max(worker.tokens for worker in self.room.workers.values())
            refusal = Refusal("too_large" if n_in + 1 > larger else "no_large_worker", "")
        refusal = refusal or self.scheduler.submit(ticket, now)
        if refusal is not None:
            return [(name, refusal.reason)]
        self.tickets[name] = ticket
        self.owner[ticket] = replica
        return []

    def _worker(self, worker: str, report: dict[str, Any]) -> None:
        self.room.set_worker(
            worker, healthy=report.get("healthy"), slots=report.get("slots"), tokens=report.get("tokens")
        )

    def _charge(self, ticket: Ticket, n_in: int, cached: int, produced: int) -> None:
        if ticket.state is not State.RUNNING:
            return
        if (n_in, cached) != (ticket.input_tokens, ticket.cached_tokens):
            self.scheduler.correct(ticket, n_in, cached)
        self.scheduler.charge(ticket, produced)
        self._book(ticket).settle(ticket)

    def _book(self, ticket: Ticket) -> Book:
        return self.replicas[self.owner[ticket]].book

    def _finish(self, ticket: Ticket, n_in: int, cached: int, produced: int) -> None:
        if ticket.state is State.RUNNING:
            self._charge(ticket, n_in, cached, produced)
            self.scheduler.finish(ticket)
            self._book(ticket).close(ticket)

    def _cancel(self, ticket: Ticket, n_in: int, cached: int, produced: int) -> None:
        self._charge(ticket, n_in, cached, produced)
        if ticket.state in (State.WAITING, State.RUNNING):
            self.scheduler.cancel(ticket)
        self._book(ticket).close(ticket)

    def _requeue(self, ticket: Ticket, avoid: list[str]) -> None:
        if ticket.state is State.RUNNING:
            ticket.avoid |= set(avoid)
            self._book(ticket).undo(ticket)
            self.scheduler.requeue(ticket)

    def _undo(self, ticket: Ticket) -> None:
        self._requeue(ticket, [])
        if ticket.state is State.WAITING:
            self.scheduler.cancel(ticket)

    def _pick(self) -> list[tuple[Any, ...]]:
        decided: list[tuple[Any, ...]] = []
        while True:
            self._refuse_heads(decided)
            grant = self.scheduler.pick()
            if grant is None:
                return decided
            decided.append((grant.ticket.id, grant.worker, grant.ticket.predicted))

    def _refuse_heads(self, decided: list[tuple[Any, ...]]) -> None:
        """A head that no healthy worker can ever take leaves, or it would block all others."""
        while any(worker.healthy for worker in self.room.workers.values()):
            root = self.scheduler._forest.class_in_turn()
            first = root.first() if root is not None else None
            if first is None or first.head().input_tokens + 1 <= self.room.capacity().largest:
                return
            decided.append((first.head().id, "refused"))
            self.scheduler.cancel(first.head())

    def _as_decisions(self, told: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
        grants = sorted((g for g in told if "number" in g), key=lambda g: int(g["number"]))
        refused: list[tuple[Any, ...]] = [(g["ticket"], "refused") for g in told if "refused" in g]
        return in_order(refused + [(g["ticket"], g["worker"], g["predicted"]) for g in grants])

    # -- comparing ---------------------------------------------------------------------------------------------

    def compare(self) -> None:
        found = self.store.inspect()
        if self.remembers_exposure:
            self._compare_exposure(found)
        assert found["held"] == self.scheduler._ledger.held
        if self.scheduler.policy.quantum == 1:
            assert found["gap"] == round(self.scheduler.gap() * 1000)
        assert {w["id"]: (w["running"], w["reserved"], w["healthy"]) for w in found["workers"]} == {
            w.id: (w.running, w.reserved, w.healthy) for w in self.room.workers.values()
        }
        self._compare_shares(found["shares"])

    def _compare_exposure(self, found: dict[str, Any]) -> None:
        exposure = self.scheduler._ledger._exposure
        assert found["most_held"] == exposure._most_held
        assert found["overrun"] == exposure.overrun
        assert found["largest"] == exposure._largest
        assert found["most_running"] == exposure.most_running
        assert found["input_refunded"] == exposure._input_refunded
        assert found["owed"] == self.scheduler._ledger.owed()
        assert found["least_weight"] == self.scheduler._forest.least_weight

    def _compare_shares(self, shares: dict[str, Any]) -> None:
        forest = self.scheduler._forest
        mine = {
            share.path: (share.counter, share.waiting, len(share.running), share.weight) for share in forest.shares()
        }
        theirs = {
            path: (int(s["counter"]), s["waiting"], s["running"], s["weight"]) for path, s in shares.items() if path
        }
        assert theirs == mine, sorted(set(theirs.items()) ^ set(mine.items()))
        groups = forest.groups() if self.remembers_exposure else forest.roots()
        floors = {group.path: group.lift_target for group in groups}
        assert {path: int(shares[path]["floor"]) for path in floors if path in shares} == {
            path: floor for path, floor in floors.items() if path in shares
        }
        books = [self.store.book(replica) for replica in REPLICAS]
        for replica, book in zip(REPLICAS, books, strict=True):
            assert without_zeros(book) == without_zeros(self.replicas[replica].book.totals())
        for path, share in shares.items():
            if path:
                assert int(share["lifted"]) + sum(book.get(path, 0) for book in books) == int(share["counter"]), path
