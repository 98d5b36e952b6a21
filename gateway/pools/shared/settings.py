"""What replicas of a pool must agree on: its settings in one revision, as the JSON that the store keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

from fairness import CostFunction, Policy, Weighted, parse_cost, parse_policy
from fairness.cost import Piecewise, Profiled
from gateway.config import GatewayConfig, PoolConfig
from gateway.pools.settings import NamedWorker, QueueLimits, Settings, settings_of

_KINDS = {Weighted: "weighted", Piecewise: "piecewise", Profiled: "profiled"}
_MOST_QUANTUM = 2**53  # policies with a larger step count all counters as equal


@dataclass(frozen=True)
class SharedSettings(Settings):
    """One revision of them. `text` is the JSON as the store keeps it (see settings.lua for its fields). `quotas` are
    requests a minute by tenant."""

    text: str
    revision: int
    digest: str
    quotas: dict[str, int]
    lease_s: float


def read_settings(text: str) -> SharedSettings:
    """Settings from their JSON."""
    data = json.loads(text)
    return SharedSettings(
        policy=parse_policy(data["policy"]["name"]),
        cost=parse_cost(data["cost"]),
        predict=_spec_of(data["predict"]),
        limits=QueueLimits(**data["limits"]),
        weights=data["weights"],
        default_weight=data["default_weight"],
        workers=[NamedWorker(**worker) for worker in data["workers"]],
        text=text,
        revision=data["revision"],
        digest=data["digest"],
        quotas=data["quotas"],
        lease_s=data["lease_ms"] / 1000,
    )


def shared_settings_of(pool: PoolConfig, config: GatewayConfig) -> SharedSettings:
    """The settings of one pool. Their digest covers all but the revision. Raises ValueError without a store."""
    if config.store is None:
        raise ValueError("a configuration without a store has nothing to share")
    settings = settings_of(pool, config)
    data = {
        "policy": _policy(settings.policy),
        "cost": _cost(settings.cost),
        "predict": _predict(settings.predict),
        "limits": settings.limits._asdict(),
        "lease_ms": round(config.store.lease_s * 1000),
        "weights": settings.weights,
        "default_weight": settings.default_weight,
        "workers": [worker._asdict() for worker in settings.workers],
        "quotas": {tenant.id: tenant.rpm for tenant in config.tenants if tenant.rpm},
    }
    digest = sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]
    return read_settings(json.dumps({"revision": config.revision, "digest": digest, **data}))


def _policy(policy: Policy) -> dict[str, Any]:
    kind, _, number = policy.name.partition(":")
    return {
        "name": policy.name,
        "lifts": policy.lifts,
        "tree": policy.tree,
        "quantum": policy.quantum if policy.quantum < _MOST_QUANTUM else 0,
        "rpm": int(number) if kind == "rpm" else 0,
        "per_request": kind == "rr",
    }


def _cost(cost: CostFunction) -> dict[str, Any]:
    assert isinstance(cost, Weighted | Piecewise | Profiled)
    prices = asdict(cost)
    if isinstance(cost, Weighted) and cost.cached_input is None:
        prices["cached_input"] = cost.input
    return {"kind": _KINDS[type(cost)], **prices}


def _predict(spec: str) -> dict[str, Any]:
    kind, _, number = spec.partition(":")
    return {"kind": kind, "k": int(number) if kind == "mean" else 20, "q": float(number) if kind == "quantile" else 0.0}


def _spec_of(predict: Mapping[str, Any]) -> str:
    numbers = {"mean": f":{predict['k']}", "quantile": f":{predict['q']}"}
    return f"{predict['kind']}{numbers.get(predict['kind'], '')}"
