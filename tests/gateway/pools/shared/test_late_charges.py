"""Reports of tokens may come late: room is given back only by the operation that settles a ticket, so the bound stays.

Four replicas in front of engines that produce a token a step for all they run. Service is counted here, token by token
as it happens, not as it is reported.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import combinations, count
from typing import Any

import pytest
import redis

from .calls import WORKERS, Setup, Store

REPLICAS = ["r1", "r2", "r3", "r4"]
WEIGHTS = {"a": 4.0, "b": 1.0, "c": 1.0}
INPUT, OUTPUT = {"a": 30, "b": 60, "c": 10}, {"a": 20, "b": 40, "c": 70}
STEPS = 1200
ROOM = sum(tokens for _, tokens in WORKERS.values())
_names = count()


@dataclass
class Running:
    replica: str
    tenant: str
    produced: int = 0


@dataclass
class Fleet:
    """`report_every` steps tokens are reported; 0: only when a request ends."""

    store: Store
    report_every: int
    running: dict[str, Running] = field(default_factory=dict)
    owner: dict[str, tuple[str, str]] = field(default_factory=dict)
    service: dict[str, float] = field(default_factory=lambda: dict.fromkeys(WEIGHTS, 0.0))
    history: list[dict[str, float]] = field(default_factory=list)

    def submit(self, replica: str, tenant: str) -> list[Any]:
        name = f"t{next(_names)}"
        self.owner[name] = (replica, tenant)
        return ["submit", name, tenant, INPUT[tenant], OUTPUT[tenant]]

    def call(self, replica: str, operations: list[list[Any]]) -> None:
        answer = self.store.call(replica, *operations)
        assert answer[0] == "ok"
        assert answer[9] == []
        told = [json.loads(grant) for grant in answer[10]]
        for other in REPLICAS:
            told += self.store.granted_to(other) if other != replica else []
        for grant in told:
            owner, tenant = self.owner[grant["ticket"]]
            self.running[grant["ticket"]] = Running(owner, tenant)
            self.service[tenant] += INPUT[tenant]

    def step(self, number: int) -> None:
        operations: dict[str, list[list[Any]]] = {replica: [] for replica in REPLICAS}
        for name, request in list(self.running.items()):
            request.produced += 1
            self.service[request.tenant] += 2
            total = [name, INPUT[request.tenant], 0, request.produced]
            if request.produced == OUTPUT[request.tenant]:
                del self.running[name]
                operations[request.replica] += [["finish", *total], self.submit(request.replica, request.tenant)]
            elif self.report_every and number % self.report_every == 0:
                operations[request.replica].append(["charge", *total])
        for replica, some in operations.items():
            if some:
                self.call(replica, some)
        self.history.append({tenant: self.service[tenant] / WEIGHTS[tenant] for tenant in WEIGHTS})

    def widest_gap(self) -> float:
        """The largest |dW_f/w_f - dW_g/w_g| over all intervals; everybody waits throughout."""
        gaps = []
        for f, g in combinations(WEIGHTS, 2):
            ahead = [at[f] - at[g] for at in self.history]
            gaps.append(max(ahead) - min(ahead))
        return max(gaps)

    def bound(self) -> float:
        """2U / min w, U = w_q M for weighted tokens 1, 2. Where nothing is predicted M grows by what was measured."""
        seen = self.store.inspect()
        return 2 * 2 * (max(ROOM, seen["most_held"]) + seen["overrun"]) / min(WEIGHTS.values())


def run(client: redis.Redis, policy: str, predict: str, report_every: int) -> Fleet:
    setup = Setup(policy=policy, predict=predict, weights=WEIGHTS)
    store = Store(client, f"late{next(_names)}", setup)
    fleet = Fleet(store, report_every)
    for replica in REPLICAS:
        store.join(replica)
    for worker in WORKERS:
        store.call("r1", ["worker", worker, {"healthy": True, "ttl_ms": 3_600_000}])
    for tenant, entries in (("a", REPLICAS[:1]), ("b", REPLICAS), ("c", REPLICAS[2:])):
        for number in range({"a": 8, "b": 5, "c": 12}[tenant]):
            replica = entries[number % len(entries)]
            fleet.call(replica, [fleet.submit(replica, tenant)])
    for number in range(STEPS):
        fleet.step(number)
    assert all(share["waiting"] for path, share in store.inspect()["shares"].items() if path), "nobody ran dry"
    return fleet


@pytest.mark.parametrize("report_every", [1, 10, 0])
def test_late_reports_add_nothing_to_the_bound(client: redis.Redis, report_every: int) -> None:
    fleet = run(client, "vtc", "max_tokens", report_every)
    assert fleet.bound() == 4 * ROOM, "nothing is added to what the room alone gives"
    assert fleet.widest_gap() <= fleet.bound()


@pytest.mark.parametrize("report_every", [1, 10, 0])
def test_what_was_not_reserved_adds_what_was_measured(client: redis.Redis, report_every: int) -> None:
    fleet = run(client, "vtc", "none", report_every)
    assert fleet.widest_gap() <= fleet.bound()


def test_the_control_breaks_it(client: redis.Redis) -> None:
    fleet = run(client, "fcfs", "max_tokens", 1)
    assert fleet.widest_gap() > fleet.bound()
