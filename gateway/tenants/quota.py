"""Requests per minute, for tenants that have such a limit; it spans all pools."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Protocol

from fairness import SlidingWindow
from gateway.tenants.directory import TenantDirectory

WINDOW = 60.0


class Quotas(Protocol):
    """`tenant` is an id, `now` in seconds on the caller's clock."""

    async def admit(self, tenant: str, request: str, now: float) -> float | None:
        """Count a request and return None, or the seconds until one more would be accepted."""

    async def give_back(self, tenant: str, request: str, now: float) -> None:
        """A request that was admitted was not queued after all: it does not count."""

    def headers(self, tenant: str, now: float) -> dict[str, str]:
        """`x-ratelimit-*-requests`, for a tenant with a limit."""


class LocalQuotas:
    """Those of a gateway for itself. `share` of a limit is what it grants: all of it, or its part of it while the
    other gateways cannot be heard."""

    def __init__(self, directory: TenantDirectory, share: Callable[[int], int] = lambda limit: limit) -> None:
        self._directory = directory
        self._share = share
        self._accepted = _Window(0, WINDOW)

    async def admit(self, tenant: str, request: str, now: float) -> float | None:
        window = self._window(tenant)
        return window.admit(tenant, now) if window is not None else None

    async def give_back(self, tenant: str, request: str, now: float) -> None:
        if (window := self._window(tenant)) is not None:
            window.give_back(tenant)

    def headers(self, tenant: str, now: float) -> dict[str, str]:
        window = self._window(tenant)
        return limit_headers(window.limit, window.remaining(tenant, now)) if window is not None else {}

    def _window(self, tenant_id: str) -> _Window | None:
        """The accepted requests, held against the limit that the tenant has right now; None where it has none."""
        tenant = self._directory.by_id(tenant_id)
        if tenant is None or tenant.rpm is None:
            return None
        self._accepted.limit = self._share(tenant.rpm)
        return self._accepted


class _Window(SlidingWindow):
    def give_back(self, key: str) -> None:
        """The last accepted event does not count."""
        if events := self._events.get(key):
            events.pop()


def limit_headers(limit: int, remaining: int) -> dict[str, str]:
    """With `remaining` of `limit` requests left in this window; fewer than none where the limit has been lowered."""
    return {
        "x-ratelimit-limit-requests": str(limit),
        "x-ratelimit-remaining-requests": str(max(0, remaining)),
        "x-ratelimit-reset-requests": f"{ceil(WINDOW if remaining < limit else 0)}s",
    }
