"""The two machines side by side: `fairness.Scheduler` in memory, and the Lua in a server, driven by the same operations.

Every batch is compared at once: what was refused, who got which turn on which worker, and all state.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import redis

from fairness import Refusal, Scheduler, State, Ticket, Worker, parse_cost, parse_policy, parse_predictor
from gateway.room import HealthyRoom
from gateway.store.sources import machine

WEIGHTS = {"a": 1.0, "b": 2.5, "c": 0.3, "g": 2.0, "g/x": 3.0, "g/x/p": 1.0, "g/x/q": 0.7, "g/y": 1.0, "h/z": 1.5, "h": 1.0}
TENANTS = ["a", "b", "c", "g/x/p", "g/x/q", "g/y", "h/z"]
WORKERS = {"w1": (3, 900), "w2": (2, 600)}
REPLICAS = ["r1", "r2", "r3"]
LEASE_MS = 3_600_000
HEALTH_MS = 3_600_000
LONG_AGO = 60_000

COSTS: dict[str, dict[str, Any]] = {
    "weighted:1,2": {"kind": "weighted", "input": 1.0, "output": 2.0, "cached_input": 1.0},
    "weighted:input=1.3,output=0.7,cached_input=0.1": {
        "kind": "weighted",
        "input": 1.3,
        "output": 0.7,
        "cached_input": 0.1,
    },
    "profiled": {"kind": "profiled", "a": 2.1, "b": 1.0, "c": 0.04, "d": 0.032, "e": 11.46, "cached": 1.0},
    "piecewise": {
        "kind": "piecewise",
        "input": [[0.0, 3.0], [100.0, 60.0], [300.0, 300.0]],
        "output": [[0.0, 0.0], [20.0, 50.0], [90.0, 120.0]],
        "cached": 0.25,
    },
}


def cost_of(name: str) -> Any:
    return parse_cost(COSTS[name] if name == "piecewise" else name)


def policy_settings(spec: str) -> dict[str, Any]:
    policy = parse_policy(spec)
    return {
        "name": policy.name,
        "lifts": policy.lifts,
        "tree": policy.tree,
        "quantum": policy.quantum if policy.quantum < 2**53 else 0,
        "rpm": int(spec.removeprefix("rpm:")) if spec.startswith("rpm:") else 0,
        "per_request": spec == "rr",
    }


def predict_settings(spec: str) -> dict[str, Any]:
    kind, _, argument = spec.partition(":")
    known = {"kind": kind, "k": 5, "q": 0.9}
    if kind == "mean":
        known["k"] = int(argument)
    if kind == "quantile":
        known |= {"k": 20, "q": float(argument)}
    return known


@dataclass
class Setup:
    """What the machines are told: a policy, a cost, a predictor, and the weights in force."""

    policy: str = "vtc"
    cost: str = "weighted:1,2"
    predict: str = "none"
    weights: dict[str, float] = field(default_factory=lambda: dict(WEIGHTS))
    revision: int = 1
    lease_ms: int = LEASE_MS

    def settings(self) -> str:
        return json.dumps(
            {
                "revision": self.revision,
                "digest": f"d{self.revision}",
                "policy": policy_settings(self.policy),
                "cost": COSTS[self.cost],
                "predict": predict_settings(self.predict),
                "limits": {"waiting": 40, "per_tenant": 12, "tenants": {"b": 5}},
                "lease_ms": self.lease_ms,
                "weights": self.weights,
                "default_weight": 1.0,
                "workers": [{"id": name, "slots": s, "tokens": t} for name, (s, t) in WORKERS.items()],
            }
        )


class Store:
    """The Lua machine as one replica after the other calls it."""

    def __init__(self, client: redis.Redis[bytes], name: str, setup: Setup) -> None:
        self.client = client
        self.prefix = f"{{test:{name}}}"
        self.setup = setup
        self.batches: dict[str, int] = {}
        client.function_load(machine().source, replace=True)

    def call(self, replica: str, *ops: Any, batch: int | None = None) -> list[Any]:
        if batch is None:
            batch = self.batches[replica] = self.batches.get(replica, 0) + 1
        request = {"replica": replica, "batch": batch, "seen": "", "ops": ops}
        answer = self.client.fcall(machine().function("apply"), 1, self.prefix, json.dumps(request))
        return plain(answer)

    def join(self, replica: str, **state: Any) -> list[Any]:
        nothing = {"seq": 0, "number": 0, "shares": {}}
        known = {"peers": 1, "running": [], "waiting": [], "book": {}, "known": nothing}
        return self.call(replica, ["join", {"settings": self.setup.settings(), **known, **state}])

    def inspect(self) -> dict[str, Any]:
        found = self.client.fcall(machine().function("inspect"), 1, self.prefix)
        return {} if found is None else dict(json.loads(found))

    def book(self, replica: str) -> dict[str, int]:
        return {path.decode(): int(total) for path, total in self.client.hgetall(f"{self.prefix}:book:{replica}").items()}

    def granted_to(self, replica: str) -> list[dict[str, Any]]:
        """Takes what its stream holds."""
        key = f"{self.prefix}:grants:{replica}"
        entries = self.client.xrange(key)
        for number, _ in entries:
            self.client.xdel(key, number)
        return [json.loads(fields[b"g"]) for _, fields in entries]


def plain(value: Any) -> Any:
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value


def in_order(decisions: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Turns in the order they were given; refusals, which no number orders over several streams, first."""
    return sorted(d for d in decisions if len(d) == 2) + [d for d in decisions if len(d) == 3]


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
        self.owner: dict[Ticket, str] = {}
        self.tickets: list[Ticket] = []
        for replica in REPLICAS:
            assert self.store.join(replica)[0] == "ok"
        for worker in WORKERS:
            self.store.call(REPLICAS[0], ["worker", worker, {"healthy": True, "ttl_ms": HEALTH_MS}])

    # -- what may be done --------------------------------------------------------------------------------------

    def live(self, replica: str, *states: State) -> list[Ticket]:
        return [t for t in self.tickets if self.owner[t] == replica and t.state in states]

    def batch(self, replica: str, operations: list[tuple[Any, ...]], *, repeat: bool = False) -> None:
        """`operations` as the store takes them. With `repeat` it is sent a second time, as after a lost answer."""
        answer = self.store.call(replica, *operations)
        assert answer[0] == "ok"
        refused: list[tuple[str, str]] = []
        for operation in operations:
            refused += self._do(replica, operation, answer[1] / 1000)
        assert [(item[0], item[1]) for item in answer[9]] == refused
        decided = self._pick()
        told = [json.loads(grant) for grant in answer[10]]
        for other in REPLICAS:
            told += self.store.granted_to(other) if other != replica else []
        assert self._as_decisions(told) == in_order(decided)
        if repeat:
            assert self.store.call(replica, *operations, batch=self.store.batches[replica]) == answer
        self.compare()

    # -- the machine in memory ---------------------------------------------------------------------------------

    def _do(self, replica: str, operation: tuple[Any, ...], now: float) -> list[tuple[str, str]]:
        name, *arguments = operation
        if name == "submit":
            return self._submit(replica, *arguments, now)
        if name == "worker":
            self._worker(*arguments)
            return []
        ticket = next((t for t in self.tickets if t.id == arguments[0]), None)
        if ticket is not None:
            getattr(self, f"_{name}")(ticket, *arguments[1:])
        return []

    def _submit(
        self, replica: str, name: str, tenant: str, n_in: int, most: int, now: float
    ) -> list[tuple[str, str]]:
        ticket = Ticket(name, tenant, n_in, most)
        refusal: Refusal | None = None
        if n_in + 1 > self.room.capacity().largest:
            larger = max(worker.tokens for worker in self.room.workers.values())
            refusal = Refusal("too_large" if n_in + 1 > larger else "no_large_worker", "")
        refusal = refusal or self.scheduler.submit(ticket, now)
        if refusal is not None:
            return [(name, refusal.reason)]
        self.tickets.append(ticket)
        self.owner[ticket] = replica
        return []

    def _worker(self, worker: str, report: dict[str, Any]) -> None:
        self.room.set_worker(worker, healthy=report.get("healthy"), slots=report.get("slots"), tokens=report.get("tokens"))

    def _charge(self, ticket: Ticket, n_in: int, cached: int, produced: int) -> None:
        if ticket.state is not State.RUNNING:
            return
        if (n_in, cached) != (ticket.input_tokens, ticket.cached_tokens):
            self.scheduler.correct(ticket, n_in, cached)
        self.scheduler.charge(ticket, produced)

    def _finish(self, ticket: Ticket, n_in: int, cached: int, produced: int) -> None:
        if ticket.state is State.RUNNING:
            self._charge(ticket, n_in, cached, produced)
            self.scheduler.finish(ticket)

    def _cancel(self, ticket: Ticket, n_in: int, cached: int, produced: int) -> None:
        self._charge(ticket, n_in, cached, produced)
        if ticket.state in (State.WAITING, State.RUNNING):
            self.scheduler.cancel(ticket)

    def _requeue(self, ticket: Ticket, avoid: list[str]) -> None:
        if ticket.state is State.RUNNING:
            ticket.avoid |= set(avoid)
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
        ledger = self.scheduler._ledger
        exposure = ledger._exposure
        assert found["held"] == exposure.held
        assert found["most_held"] == exposure._most_held
        assert found["overrun"] == exposure.overrun
        assert found["largest"] == exposure._largest
        assert found["most_running"] == exposure.most_running
        assert found["input_refunded"] == exposure._input_refunded
        assert found["owed"] == ledger.owed()
        assert found["least_weight"] == self.scheduler._forest.least_weight
        if self.scheduler.policy.quantum == 1:
            assert found["gap"] == round(self.scheduler.gap() * 1000)
        assert {w["id"]: (w["running"], w["reserved"], w["healthy"]) for w in found["workers"]} == {
            w.id: (w.running, w.reserved, w.healthy) for w in self.room.workers.values()
        }
        self._compare_shares(found["shares"])

    def _compare_shares(self, shares: dict[str, Any]) -> None:
        forest = self.scheduler._forest
        mine = {share.path: (share.counter, share.waiting, len(share.running), share.weight) for share in forest.shares()}
        theirs = {
            path: (int(s["counter"]), s["waiting"], s["running"], s["weight"]) for path, s in shares.items() if path
        }
        assert theirs == mine, sorted(set(theirs.items()) ^ set(mine.items()))
        floors = {group.path: group.floor for group in forest.groups()}
        assert {path: int(shares[path]["floor"]) for path in floors if path in shares} == {
            path: floor for path, floor in floors.items() if path in shares
        }
        books = [self.store.book(replica) for replica in REPLICAS]
        for path, share in shares.items():
            if path:
                assert int(share["lifted"]) + sum(book.get(path, 0) for book in books) == int(share["counter"]), path
