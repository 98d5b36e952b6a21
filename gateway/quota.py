"""Requests per minute, for tenants that have such a limit; it spans all pools."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil

from fairness import SlidingWindow
from gateway.config import TenantConfig

WINDOW = 60.0


class Quotas:
    """`now` in seconds on the caller's clock."""

    def __init__(self, tenants: Iterable[TenantConfig]) -> None:
        self._windows = {tenant.id: SlidingWindow(tenant.rpm, WINDOW) for tenant in tenants if tenant.rpm}

    def admit(self, tenant: TenantConfig, now: float) -> float | None:
        """Count a request and return None, or the seconds until one more would be accepted."""
        window = self._windows.get(tenant.id)
        return None if window is None else window.admit(tenant.id, now)

    def headers(self, tenant: TenantConfig | None, now: float) -> dict[str, str]:
        """`x-ratelimit-*-requests`, for a tenant with a limit."""
        window = self._windows.get(tenant.id) if tenant is not None else None
        if tenant is None or window is None:
            return {}
        remaining = window.remaining(tenant.id, now)
        return {
            "x-ratelimit-limit-requests": str(window.limit),
            "x-ratelimit-remaining-requests": str(remaining),
            "x-ratelimit-reset-requests": f"{ceil(WINDOW if remaining < window.limit else 0)}s",
        }
