"""The settings of a pool, from the file to the law. Whoever decides for it goes by them: a gateway by itself, a store,
or a replica alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from fairness import (
    Auditor,
    CostFunction,
    Objective,
    Policy,
    Predictor,
    Residency,
    Room,
    Scheduler,
    parse_cost,
    parse_policy,
    parse_predictor,
    paths,
)
from fairness.cost import Cost
from gateway.config.schema import FALLBACK_KV_TOKENS, FALLBACK_SLOTS, GatewayConfig, PoolConfig


class NamedWorker(NamedTuple):
    """A worker as the file names it; a size that the file leaves out is assumed until the engine tells its own."""

    id: str
    slots: int
    tokens: int


class QueueLimits(NamedTuple):
    """Requests that may wait: in the whole pool, of each tenant, and of `tenants` with a limit of their own."""

    waiting: int
    per_tenant: int
    tenants: dict[str, int]


@dataclass(frozen=True)
class Settings:
    """`weights` are those of tenants and groups, by path, where they differ from `default_weight`. `predict` is the
    predictor's spec: each scheduler learns for itself."""

    policy: Policy
    cost: Cost
    predict: str
    limits: QueueLimits
    weights: Mapping[str, float]
    default_weight: float
    workers: list[NamedWorker]

    def predictor(self) -> Predictor:
        return parse_predictor(self.predict)

    def measure(self) -> CostFunction:
        """What is charged to counters."""
        return self.policy.measure(self.cost)

    def weights_of(self, tenant: str) -> list[float]:
        """Of a tenant and the groups above it, bottom up."""
        levels = paths(tenant, self.policy.tree)
        return [self.weights.get(path.removesuffix("/"), self.default_weight) for path in levels]

    def same_prices(self, other: Settings) -> bool:
        """Tickets cost the same under both."""
        return (self.cost, self.policy.spec) == (other.cost, other.policy.spec)


def settings_of(pool: PoolConfig, config: GatewayConfig) -> Settings:
    """The settings of one pool of a gateway's file."""
    weights = config.weights()
    return Settings(
        parse_policy(pool.policy),
        parse_cost(pool.cost),
        pool.predict,
        QueueLimits(
            pool.queue.max_requests,
            pool.queue.max_requests_per_tenant,
            {tenant.id: tenant.max_queued for tenant in config.tenants if tenant.max_queued is not None},
        ),
        weights,
        min(weights.values()),
        [NamedWorker(w.url, w.slots or FALLBACK_SLOTS, w.kv_tokens or FALLBACK_KV_TOKENS) for w in pool.workers],
    )


def scheduler_of(
    settings: Settings,
    room: Room,
    *,
    auditor: Auditor,
    predictor: Predictor,
    parts: int = 1,
    residency: Residency | None = None,
    adapter_load: float = 0.0,
    objective: Objective | None = None,
) -> Scheduler:
    """The law for a queue in this process. `room` is one of `parts` of the pool's: a gateway by itself is one that is
    alone with one part. `residency`, `adapter_load` and `objective` exist for such a gateway only, as do policies with
    classes or slack: shared state has no form for them (`PoolConfig.not_shared`)."""
    return Scheduler(
        settings.policy.part(parts),
        settings.cost,
        room,
        weights=settings.weights,
        default_weight=settings.default_weight,
        predictor=predictor,
        residency=residency,
        adapter_load=adapter_load,
        auditor=auditor,
        objective=objective,
        max_waiting=settings.limits.waiting,
        max_waiting_per_tenant=settings.limits.per_tenant,
        tenant_bounds=settings.limits.tenants,
    )
