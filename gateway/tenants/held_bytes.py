"""The memory that bodies of requests take while they are read and wait: so much for each tenant, and so much in all.

A queue bounds requests, and a request may be four bytes or four megabytes: 1,000 requests of one tenant at 4 MiB each
are 4 GB. Whoever keeps a body asks here first, and gives back exactly what was granted when the body is let go of.
A body that is still being read is held piece by piece as it comes: a Content-Length alone takes no memory, and held at
the head it would keep others out for nothing.
"""

from __future__ import annotations

from typing import Final, final

TENANT_FULL: Final = "queued_bytes_exceeded"
"""The tenant holds what one tenant may: its own doing, so its requests alone are turned away (429)."""
GATEWAY_FULL: Final = "gateway_memory_full"
"""All tenants together hold what the gateway may: it can serve nobody now, whoever asks (503)."""


@final
class HeldBytes:
    """Bytes held by tenant. A tenant with nothing held takes no memory. Every operation is O(1)."""

    def __init__(self, most_per_tenant: int, most: int) -> None:
        self._most_per_tenant = most_per_tenant
        self._most = most
        self._by_tenant: dict[str, int] = {}
        self._total = 0

    @property
    def total(self) -> int:
        return self._total

    def of(self, tenant: str) -> int:
        return self._by_tenant.get(tenant, 0)

    def hold(self, tenant: str, size: int) -> str | None:
        """Hold `size` bytes more and return None, or hold none and return which bound they would have crossed."""
        held = self._by_tenant.get(tenant, 0) + size
        if held > self._most_per_tenant:
            return TENANT_FULL
        if self._total + size > self._most:
            return GATEWAY_FULL
        if held:
            self._by_tenant[tenant] = held
        self._total += size
        return None

    def release(self, tenant: str, size: int) -> None:
        """Give back what `hold` granted. Raises ValueError, and leaves everything as it was, for more than is held."""
        held = self._by_tenant.get(tenant, 0)
        if size > held:
            raise ValueError(f"tenant {tenant} gives back {size} bytes; expected at most the {held} that it holds")
        if size == held:
            self._by_tenant.pop(tenant, None)
        else:
            self._by_tenant[tenant] = held - size
        self._total -= size

    def check_integrity(self) -> None:
        """Raises AssertionError where the books do not agree."""
        assert self._total == sum(self._by_tenant.values()), "the total is another than that of all tenants"
        assert all(0 < held <= self._most_per_tenant for held in self._by_tenant.values()), "a tenant is out of bounds"
        assert self._total <= self._most, "more is held than may be"
