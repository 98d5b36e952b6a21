"""The Lua machine in a server, called as a replica calls it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import redis

from fairness import parse_cost, parse_policy, parse_predictor
from gateway.pools.shared.machine import machine

WEIGHTS = {
    "a": 1.0,
    "b": 2.5,
    "c": 0.3,
    "g": 2.0,
    "g/x": 3.0,
    "g/x/p": 1.0,
    "g/x/q": 0.7,
    "g/y": 1.0,
    "h/z": 1.5,
    "h": 1.0,
}
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
                "policy": parse_policy(self.policy).wire(),
                "cost": COSTS[self.cost],
                "predict": parse_predictor(self.predict).wire(),
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
        self.acked: dict[str, int] = {}
        client.function_load(machine().source, replace=True)

    def call(self, replica: str, *ops: Any, batch: int | None = None) -> list[Any]:
        if batch is None:
            batch = self.batches[replica] = self.batches.get(replica, 0) + 1
        acked = self.acked.get(replica, 0)
        request = {"replica": replica, "batch": batch, "acked": acked, "seen": "", "ops": ops}
        answer = plain(self.client.fcall(machine().function("apply"), 1, self.prefix, json.dumps(request)))
        if answer[0] == "ok":
            self.acked[replica] = max(acked, batch)
        return list(answer)

    def join(self, replica: str, **state: Any) -> list[Any]:
        nothing = {"seq": 0, "number": 0, "shares": {}}
        known = {"peers": 1, "running": [], "waiting": [], "book": {}, "known": nothing}
        return self.call(replica, ["join", {"settings": self.setup.settings(), **known, **state}])

    def inspect(self) -> dict[str, Any]:
        found = self.client.fcall(machine().function("inspect"), 1, self.prefix)
        return {} if found is None else dict(json.loads(found))

    def stored(self) -> list[bytes]:
        return sorted(self.client.scan_iter(match=self.prefix.replace("{", "\\{") + "*"))

    def copy(self) -> dict[bytes, bytes]:
        return {key: self.client.dump(key) or b"" for key in self.stored()}

    def become(self, copy: dict[bytes, bytes]) -> None:
        """What a server that has other data would hold."""
        for key in self.stored():
            self.client.delete(key)
        for key, data in copy.items():
            self.client.restore(key, 0, data)

    def book(self, replica: str) -> dict[str, int]:
        return {
            path.decode(): int(total) for path, total in self.client.hgetall(f"{self.prefix}:book:{replica}").items()
        }

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
