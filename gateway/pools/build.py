"""Puts the pools of a gateway together from its configuration: each in this process, or each shared over a store."""

from __future__ import annotations

import logging
import random
import secrets
import socket
from collections.abc import Callable

from fairness import Auditor, Crossing, Objective, Worker
from gateway.config.schema import GatewayConfig, PoolConfig, StoreConfig
from gateway.pools.drain_rate import DrainRate
from gateway.pools.local import LocalPool
from gateway.pools.room import HealthyRoom
from gateway.pools.settings import scheduler_of, settings_of
from gateway.pools.shared.link import Link
from gateway.pools.shared.pool import SharedPool
from gateway.pools.shared.settings import shared_settings_of
from gateway.store.client import StoreClient

logger = logging.getLogger("gateway")
HEALTH_TTL = 3
"""Probes, or calls to the store if those are rarer, for which other replicas believe a good probe of ours."""

Clock = Callable[[], float]
"""Seconds, the event loop's."""


def local_pools(config: GatewayConfig, clock: Clock) -> dict[str, LocalPool]:
    """By name: pools of a gateway that shares them with nobody."""
    return {name: _local_pool(name, pool, config, clock) for name, pool in config.pools.items()}


def shared_pools(
    config: GatewayConfig, store: StoreClient, section: StoreConfig, clock: Clock
) -> dict[str, SharedPool]:
    """By name: pools whose state is in `store`, which `section` of the configuration describes."""
    return {name: _shared_pool(name, config, store, section, clock) for name in config.pools}


def _local_pool(name: str, pool: PoolConfig, config: GatewayConfig, clock: Clock) -> LocalPool:
    settings = settings_of(pool, config)
    workers = [Worker(*worker, healthy=False) for worker in settings.workers]
    room = HealthyRoom(workers, dict.fromkeys((worker.id for worker in workers), pool.adapters_at_once()))
    scheduler = scheduler_of(
        settings,
        room,
        auditor=_auditor(name, clock),
        predictor=settings.predictor(),
        residency=room if pool.adapter_slots else None,
        adapter_load=pool.adapter_load,
        objective=Objective(pool.ttft_objective_s) if pool.ttft_objective_s else None,
    )
    return LocalPool(name, scheduler, room, clock=clock, drain_rate=DrainRate(random.random))


def _shared_pool(
    name: str, config: GatewayConfig, store: StoreClient, section: StoreConfig, clock: Clock
) -> SharedPool:
    pool = config.pools[name]
    replica = f"{section.replica or socket.gethostname()}-{secrets.token_hex(4)}"
    key = f"{{{section.namespace}:{name}}}"
    return SharedPool(
        name,
        shared_settings_of(pool, config),
        lambda replica_side: Link(replica_side, store, section, key=key, name=replica, clock=clock),
        closed_when_lost=section.on_store_loss == "closed",
        health_ttl=HEALTH_TTL * max(config.health.interval_s, section.heartbeat_s),
        adapters=pool.adapters_at_once(),
        auditor=lambda: _auditor(name, clock),
        clock=clock,
        drain_rate=DrainRate(random.random),
    )


def _auditor(pool: str, clock: Clock) -> Auditor:
    def alarm(crossing: Crossing) -> None:
        logger.warning("pool %s: the bound was crossed: %s", pool, crossing)

    return Auditor(alarm, clock)
