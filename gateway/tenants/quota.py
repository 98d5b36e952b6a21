"""Requests per minute, for tenants that have such a limit; it spans all pools."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import ceil
from typing import Protocol

from fairness import SlidingWindow
from gateway.config import TenantConfig

WINDOW = 60.0


class Quotas(Protocol):
    """`now` in seconds on the caller's clock."""

    async def admit(self, tenant: TenantConfig, request: str, now: float) -> float | None:
        """Count a request and return None, or the seconds until one more would be accepted."""

    async def give_back(self, tenant: TenantConfig, request: str, now: float) -> None:
        """A request that was admitted was not queued after all: it does not count."""

    def headers(self, tenant: TenantConfig | None, now: float) -> dict[str, str]:
        """`x-ratelimit-*-requests`, for a tenant with a limit."""


class LocalQuotas:
    """Those of a gateway for itself. `share` of a limit is what it grants: all of it, or its part of it while the
    other gateways cannot be heard."""

    def __init__(self, tenants: Iterable[TenantConfig], share: Callable[[int], int] = lambda limit: limit) -> None:
        self._windows = {tenant.id: _Window(tenant.rpm, WINDOW) for tenant in tenants if tenant.rpm}
        self._share = share

    async def admit(self, tenant: TenantConfig, request: str, now: float) -> float | None:
        window = self._windows.get(tenant.id)
        if window is None:
            return None
        window.limit = self._share(tenant.rpm or 0)
        return window.admit(tenant.id, now)

    async def give_back(self, tenant: TenantConfig, request: str, now: float) -> None:
        if (window := self._windows.get(tenant.id)) is not None:
            window.give_back(tenant.id)

    def headers(self, tenant: TenantConfig | None, now: float) -> dict[str, str]:
        window = self._windows.get(tenant.id) if tenant is not None else None
        if tenant is None or window is None:
            return {}
        return limit_headers(window.limit, window.remaining(tenant.id, now))


class _Window(SlidingWindow):
    def give_back(self, key: str) -> None:
        """The last accepted event does not count."""
        if events := self._events.get(key):
            events.pop()


def limit_headers(limit: int, remaining: int) -> dict[str, str]:
    """With `remaining` of `limit` requests left in this window."""
    return {
        "x-ratelimit-limit-requests": str(limit),
        "x-ratelimit-remaining-requests": str(remaining),
        "x-ratelimit-reset-requests": f"{ceil(WINDOW if remaining < limit else 0)}s",
    }
