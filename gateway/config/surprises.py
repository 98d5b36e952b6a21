"""What is valid in a configuration and probably not meant."""

from __future__ import annotations

from collections.abc import Iterator

from fairness import parse_policy
from gateway.config.schema import GatewayConfig


def surprises(config: GatewayConfig) -> list[str]:
    """One sentence each."""
    return [*_of_pools(config), *_of_tenants(config)]


def _of_pools(config: GatewayConfig) -> Iterator[str]:
    everybodys = any(tenant.models == "all" for tenant in config.tenants)
    usable = {model for tenant in config.tenants if tenant.models != "all" for model in tenant.models}
    for name, pool in config.pools.items():
        for model in pool.served():
            if not everybodys and model not in usable:
                yield f"no tenant may use model {model} of pool {name}"
        if not parse_policy(pool.policy).bounded:
            yield f"pool {name} orders by {pool.policy}, which promises no fair share; vtc does"


def _of_tenants(config: GatewayConfig) -> Iterator[str]:
    served = {model for pool in config.pools.values() for model in pool.served()}
    for tenant in config.tenants:
        unknown = [] if tenant.models == "all" else [model for model in tenant.models if model not in served]
        if unknown:
            yield f"tenant {tenant.id} may use {', '.join(unknown)}, which no pool serves"
