"""What replicas of a pool must agree on, as the JSON that the store keeps, and what a replica makes of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from fairness import CostFunction, Policy, Predictor, parse_cost, parse_policy, parse_predictor
from gateway.config.schema import FALLBACK_KV_TOKENS, FALLBACK_SLOTS, GatewayConfig, PoolConfig


@dataclass(frozen=True)
class Settings:
    """One revision of them. `text` is the JSON as the store keeps it (see settings.lua for its fields)."""

    text: str
    revision: int
    digest: str
    policy: Policy
    cost: CostFunction
    weights: dict[str, float]
    default_weight: float
    workers: list[dict[str, Any]]
    limits: dict[str, Any]
    quotas: dict[str, int]
    predict: str
    lease_s: float

    def predictor(self) -> Predictor:
        return parse_predictor(self.predict)

    def measure(self) -> CostFunction:
        """What is charged to counters."""
        return self.policy.measure(self.cost)

    def same_prices(self, other: Settings) -> bool:
        """Tickets cost the same under both."""
        return (self.cost, self.policy.spec) == (other.cost, other.policy.spec)


def read_settings(text: str) -> Settings:
    """Settings from their JSON."""
    data = json.loads(text)
    return Settings(
        text=text,
        revision=data["revision"],
        digest=data["digest"],
        policy=parse_policy(data["policy"]["name"]),
        cost=parse_cost(data["cost"]),
        weights=data["weights"],
        default_weight=data["default_weight"],
        workers=data["workers"],
        limits=data["limits"],
        quotas=data["quotas"],
        predict=parse_predictor(data["predict"]).spec,
        lease_s=data["lease_ms"] / 1000,
    )


def settings_of(pool: PoolConfig, config: GatewayConfig) -> Settings:
    """The settings of one pool. Their digest covers all but the revision. Raises ValueError without a store."""
    if config.store is None:
        raise ValueError("a configuration without a store has nothing to share")
    weights = config.weights()
    data = {
        "policy": parse_policy(pool.policy).wire(),
        "cost": parse_cost(pool.cost).wire(),
        "predict": parse_predictor(pool.predict).wire(),
        "limits": {
            "waiting": pool.queue.max_requests,
            "per_tenant": pool.queue.max_requests_per_tenant,
            "tenants": {tenant.id: tenant.max_queued for tenant in config.tenants if tenant.max_queued is not None},
        },
        "lease_ms": round(config.store.lease_s * 1000),
        "weights": weights,
        "default_weight": min(weights.values()),
        "workers": [
            {"id": w.url, "slots": w.slots or FALLBACK_SLOTS, "tokens": w.kv_tokens or FALLBACK_KV_TOKENS}
            for w in pool.workers
        ],
        "quotas": {tenant.id: tenant.rpm for tenant in config.tenants if tenant.rpm},
    }
    digest = sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]
    return read_settings(json.dumps({"revision": config.revision, "digest": digest, **data}))
