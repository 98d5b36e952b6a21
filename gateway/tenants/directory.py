"""Who may use the gateway, at this moment.

Whoever needs a tenant asks here each time and keeps none, so that the next request sees what was replaced. What pools
know of tenants (weights, bounds of the queue) belongs to their own settings and is not read here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from gateway.config.schema import TenantConfig


class _Listing(NamedTuple):
    """Everything that changes together."""

    revision: int
    by_id: dict[str, TenantConfig]
    by_digest: dict[str, TenantConfig]


class TenantDirectory:
    """The tenants in their order. `revision` rises with every replacement: whoever derives something from all of them
    knows by it when to do so again."""

    def __init__(self, tenants: Iterable[TenantConfig]) -> None:
        self._now = _listing(0, tenants)

    @property
    def revision(self) -> int:
        return self._now.revision

    def __iter__(self) -> Iterator[TenantConfig]:
        return iter(self._now.by_id.values())

    def by_id(self, tenant_id: str) -> TenantConfig | None:
        return self._now.by_id.get(tenant_id)

    def by_digest(self, digest: str) -> TenantConfig | None:
        """The tenant with a key of this SHA-256, in hexadecimal."""
        return self._now.by_digest.get(digest)

    def replace(self, tenants: Iterable[TenantConfig]) -> None:
        """From now on it is these, all at once. Raises ValueError, and leaves everything as it was, where two of them
        have an id or a key in common."""
        self._now = _listing(self._now.revision + 1, tenants)


def _listing(revision: int, tenants: Iterable[TenantConfig]) -> _Listing:
    by_id: dict[str, TenantConfig] = {}
    by_digest: dict[str, TenantConfig] = {}
    for tenant in tenants:
        if by_id.setdefault(tenant.id, tenant) is not tenant:
            raise ValueError(f"tenant {tenant.id} stands there more than once; expected each once")
        for digest in tenant.keys_sha256:
            if (other := by_digest.setdefault(digest, tenant)) is not tenant:
                raise ValueError(f"tenants {other.id} and {tenant.id} have a key in common; expected keys of their own")
    return _Listing(revision, by_id, by_digest)
