"""From an API key to a tenant."""

from __future__ import annotations

from hashlib import sha256

from gateway.config.schema import TenantConfig
from gateway.tenants.auth import Keyring
from gateway.tenants.directory import TenantDirectory


def test_a_tenant_may_have_several_keys() -> None:
    tenant = TenantConfig(id="a", keys_sha256=[sha256(key).hexdigest() for key in (b"k1", b"k2")])
    ring = Keyring(TenantDirectory([tenant]))
    assert ring.tenant("k1") is ring.tenant("k2") is tenant
