"""Bodies that wait take so much memory for each tenant, so much in all, and never more."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.tenants.held_bytes import GATEWAY_FULL, TENANT_FULL, HeldBytes

EACH, ALL = 100, 250
tenants = st.sampled_from("abcd")


class Bodies(RuleBasedStateMachine):
    """Against a list of all that was granted and is not given back."""

    def __init__(self) -> None:
        super().__init__()
        self.held = HeldBytes(EACH, ALL)
        self.granted: list[tuple[str, int]] = []

    def of(self, tenant: str) -> int:
        return sum(size for owner, size in self.granted if owner == tenant)

    @rule(tenant=tenants, size=st.integers(0, 120))
    def hold(self, tenant: str, size: int) -> None:
        expected = None
        if self.of(tenant) + size > EACH:
            expected = TENANT_FULL
        elif sum(size for _, size in self.granted) + size > ALL:
            expected = GATEWAY_FULL
        assert self.held.hold(tenant, size) == expected
        if expected is None:
            self.granted.append((tenant, size))

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.granted:
            tenant, size = self.granted.pop(data.draw(st.integers(0, len(self.granted) - 1)))
            self.held.release(tenant, size)

    @rule(tenant=tenants, more=st.integers(1, 10))
    def release_too_much(self, tenant: str, more: int) -> None:
        with pytest.raises(ValueError, match=rf"tenant {tenant} gives back \d+ bytes; expected at most the \d+"):
            self.held.release(tenant, self.of(tenant) + more)

    @invariant()
    def the_books_agree(self) -> None:
        self.held.check_integrity()
        assert [self.held.of(tenant) for tenant in "abcd"] == [self.of(tenant) for tenant in "abcd"]
        assert self.held.total == sum(size for _, size in self.granted)


TestBodies = Bodies.TestCase


def test_tenants_with_nothing_held_are_forgotten() -> None:
    held = HeldBytes(EACH, ALL)
    for number in range(10_000):
        assert held.hold(f"tenant-{number}", number % EACH) is None
        held.release(f"tenant-{number}", number % EACH)
        assert held.hold(f"tenant-{number}", EACH + 1) == TENANT_FULL
    assert (held.total, held._by_tenant) == (0, {})


def test_a_full_tenant_is_no_hindrance_to_others() -> None:
    held = HeldBytes(EACH, ALL)
    assert held.hold("a", EACH) is None
    assert held.hold("a", 1) == TENANT_FULL
    assert held.hold("b", EACH) is None
    assert held.hold("c", EACH) == GATEWAY_FULL
    assert held.hold("c", ALL - 2 * EACH) is None


def test_integrity_is_a_check_that_can_fail() -> None:
    held = HeldBytes(EACH, ALL)
    held.hold("a", 10)
    held._by_tenant["a"] = 9
    with pytest.raises(AssertionError, match="the total is another"):
        held.check_integrity()
