"""What the directory says counts at once, for all who ask it."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest

from gateway.config.schema import TenantConfig
from gateway.errors import Unauthenticated
from gateway.metrics.tally import Tally
from gateway.tenants.auth import Keyring
from gateway.tenants.directory import TenantDirectory
from gateway.tenants.quota import LocalQuotas


def named(name: str, *keys: str, **settings: Any) -> TenantConfig:
    digests = [sha256(key.encode()).hexdigest() for key in keys or (f"key-{name}",)]
    return TenantConfig(id=name, keys_sha256=digests, **settings)


def test_a_tenant_is_found_by_id_and_by_key_and_in_order() -> None:
    a, b = named("a", "k1", "k2"), named("b")
    directory = TenantDirectory([b, a])
    assert list(directory) == [b, a]
    assert directory.by_id("a") is directory.by_digest(a.keys_sha256[1]) is a
    assert directory.by_id("c") is directory.by_digest("0" * 64) is None


def test_a_replacement_is_seen_by_authentication_at_once() -> None:
    directory = TenantDirectory([named("a"), named("b")])
    keyring = Keyring(directory)
    assert keyring.tenant("key-a").models == "all"
    before = directory.revision
    directory.replace([named("a", "new", models=["m"])])
    assert directory.revision > before
    assert keyring.tenant("new").models == ["m"]
    for gone in ("key-a", "key-b"):
        with pytest.raises(Unauthenticated):
            keyring.tenant(gone)


async def test_a_replacement_is_seen_by_quotas_at_once() -> None:
    directory = TenantDirectory([named("a", rpm=2)])
    quotas = LocalQuotas(directory)
    assert [await quotas.admit("a", "r", now) for now in (0.0, 1.0, 2.0)] == [None, None, 58.0]
    directory.replace([named("a", rpm=3)])
    assert [await quotas.admit("a", "r", now) for now in (3.0, 4.0)] == [None, 56.0], "what was accepted still counts"
    directory.replace([named("a", rpm=1)])
    assert quotas.headers("a", 5.0)["x-ratelimit-limit-requests"] == "1"
    assert quotas.headers("a", 5.0)["x-ratelimit-remaining-requests"] == "0"
    directory.replace([named("a")])
    assert await quotas.admit("a", "r", 6.0) is None
    assert quotas.headers("a", 6.0) == {}


def test_labels_of_metrics_stay_bounded_whatever_is_replaced() -> None:
    directory = TenantDirectory([named("a"), named("b"), named("c")])
    tally = Tally(directory, max_tenant_labels=3)
    assert [tally.label(name) for name in ("a", "c", "d", "")] == ["a", "c", "other", "none"]
    directory.replace([named("d"), named("a")])
    assert [tally.label(name) for name in ("a", "b", "c", "d")] == ["a", "b", "c", "other"]
    tally = Tally(directory, max_tenant_labels=3)
    directory.replace([named("e"), named("f")])
    assert [tally.label(name) for name in ("e", "f")] == ["e", "f"]


@pytest.mark.parametrize("second", [named("a", "other"), named("b", "key-a")], ids=["id", "key"])
def test_a_replacement_that_contradicts_itself_changes_nothing(second: TenantConfig) -> None:
    first = named("a")
    directory = TenantDirectory([first])
    with pytest.raises(ValueError, match=r"more than once|in common"):
        directory.replace([named("a"), second])
    assert directory.revision == 0
    assert Keyring(directory).tenant("key-a") is first
