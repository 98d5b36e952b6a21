"""What a pool looks like, for people and metrics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from fairness.forest import Forest
from fairness.room import Capacity
from fairness.shares import MILLI, Group, Share, Tenant


class TenantState(NamedTuple):
    counter: float  # service units / weight
    weight: float
    waiting: int
    running: int


class Snapshot(NamedTuple):
    """What a pool looks like now. Counters and `lift_target` in service units / weight. `groups` are the inner nodes
    of the tree of shares; a counter compares with those of its own siblings only. Of a tenant with tickets in several
    priority classes it is the largest counter, and all that waits and runs."""

    policy: str
    waiting: int
    running: int
    tenants: dict[str, TenantState]
    lift_target: float
    gap: float
    bound: float
    capacity: Capacity
    groups: dict[str, TenantState]


def snapshot_of(forest: Forest, policy: str, bound: float, capacity: Capacity) -> Snapshot:
    """O(n) in the tenants that are known."""
    shares, roots = list(forest.shares()), forest.roots()
    return Snapshot(
        policy,
        forest.waiting(),
        sum(len(root.running) for root in roots),
        _by_path([share for share in shares if isinstance(share, Tenant)]),
        max((root.lift_target for root in roots), default=0) / MILLI,
        widest_gap(forest),
        bound,
        capacity,
        _by_path([share for share in shares if isinstance(share, Group)]),
    )


def widest_gap(forest: Forest) -> float:
    """The largest max c - min c over siblings that wait, in service units / weight. O(n)."""
    return max((_spread(group) for group in forest.groups()), default=0) / MILLI


def _spread(group: Group) -> int:
    counters = [member.counter for member in group.members.values() if member.waiting]
    return max(counters) - min(counters) if counters else 0


def _by_path(shares: Iterable[Share]) -> dict[str, TenantState]:
    states: dict[str, TenantState] = {}
    for share in shares:
        other = states.get(share.path, TenantState(0.0, share.weight, 0, 0))
        counter = max(other.counter, share.counter / MILLI)
        waiting, running = other.waiting + share.waiting, other.running + len(share.running)
        states[share.path] = TenantState(counter, share.weight, waiting, running)
    return states
