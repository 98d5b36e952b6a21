"""Requests per minute over all gateways that share a store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cache
from math import ceil

from gateway.config.schema import StoreConfig
from gateway.store.client import StoreClient
from gateway.store.errors import StoreError
from gateway.store.library import Library, library_of
from gateway.tenants.directory import TenantDirectory
from gateway.tenants.quota import WINDOW, LocalQuotas, limit_headers

logger = logging.getLogger("gateway")


@cache
def quota() -> Library:
    """Requests per minute of a tenant; entry `quota`: see quota.lua for arguments and reply."""
    return library_of("gateway.tenants", "fairgate_quota", ("quota",), ("quota",))


class SharedQuotas:
    """A sliding window for each tenant, in the tenant's own hash slot, by the server's clock. While the store is lost
    each gateway grants its part of the limit, 1 / `replicas()`, from an empty window. `limits()` are those in force,
    by tenant. `name` keeps the requests of gateways apart."""

    def __init__(
        self,
        directory: TenantDirectory,
        client: StoreClient,
        config: StoreConfig,
        *,
        limits: Callable[[], Mapping[str, int]],
        replicas: Callable[[], int],
        name: str,
    ) -> None:
        self._client = client
        self._config = config
        self._limits = limits
        self._name = name
        self._alone = LocalQuotas(directory, lambda limit: ceil(limit / replicas()))
        self._remaining: dict[str, int] = {}
        self._lost_until = 0.0

    async def admit(self, tenant: str, request: str, now: float) -> float | None:
        limit = self._limits().get(tenant)
        if limit is None:
            return None
        if now < self._lost_until:
            return await self._alone.admit(tenant, request, now)
        try:
            accepted, remaining, wait_ms = await self._client.call(
                quota(), "quota", self._key(tenant), str(limit), str(round(WINDOW * 1000)), self._member(request),
                within=self._config.timeout_s,
            )  # fmt: skip
        except StoreError as error:
            logger.warning("quota of tenant %s: no store (%s); each gateway grants its part", tenant, error)
            self._lost_until = now + self._config.heartbeat_s
            return await self._alone.admit(tenant, request, now)
        self._remaining[tenant] = remaining
        return None if accepted else wait_ms / 1000

    async def give_back(self, tenant: str, request: str, now: float) -> None:
        if tenant not in self._limits():
            return
        if now < self._lost_until:
            await self._alone.give_back(tenant, request, now)
            return
        try:
            await self._client.remove_member(self._key(tenant), self._member(request), within=self._config.timeout_s)
        except StoreError:
            return  # it counts, for a minute

    def headers(self, tenant: str, now: float) -> dict[str, str]:
        limit = self._limits().get(tenant)
        if limit is None:
            return {}
        if now < self._lost_until:
            return self._alone.headers(tenant, now)
        return limit_headers(limit, self._remaining.get(tenant, limit))

    def _key(self, tenant: str) -> str:
        return f"{{{self._config.namespace}:quota:{tenant}}}"

    def _member(self, request: str) -> str:
        return f"{self._name}:{request}"
