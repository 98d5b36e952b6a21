"""What replicas of a pool must agree on: its settings in one revision, as the JSON that the store keeps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256

from fairness import parse_cost, parse_policy, parse_predictor
from gateway.config.schema import GatewayConfig, PoolConfig
from gateway.pools.settings import NamedWorker, QueueLimits, Settings, settings_of


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
        predict=parse_predictor(data["predict"]).spec,
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
        "policy": settings.policy.wire(),
        "cost": settings.cost.wire(),
        "predict": parse_predictor(settings.predict).wire(),
        "limits": settings.limits._asdict(),
        "lease_ms": round(config.store.lease_s * 1000),
        "weights": settings.weights,
        "default_weight": settings.default_weight,
        "workers": [worker._asdict() for worker in settings.workers],
        "quotas": {tenant.id: tenant.rpm for tenant in config.tenants if tenant.rpm},
    }
    digest = sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]
    return read_settings(json.dumps({"revision": config.revision, "digest": digest, **data}))
