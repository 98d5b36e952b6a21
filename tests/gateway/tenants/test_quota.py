"""Requests per minute of a gateway for itself; over several gateways see pools/shared/test_quota.py."""

from __future__ import annotations

from gateway.config.schema import TenantConfig
from gateway.tenants.directory import TenantDirectory
from gateway.tenants.quota import LocalQuotas


async def test_a_quota_counts_accepted_requests_only() -> None:
    tenant = TenantConfig(id="a", keys_sha256=["0" * 64], rpm=2)
    quotas = LocalQuotas(TenantDirectory([tenant]))
    assert [await quotas.admit("a", "r", now) for now in (0.0, 10.0, 20.0)] == [None, None, 40.0]
    assert await quotas.admit("a", "r", 60.0) is None
    await quotas.give_back("a", "r", 60.0)
    assert await quotas.admit("a", "r", 60.0) is None
    assert quotas.headers("a", 60.0)["x-ratelimit-remaining-requests"] == "0"
