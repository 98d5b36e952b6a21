"""All tenants of a pool: a tree of shares for each priority class, and whose class has the turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import inf
from typing import NamedTuple, cast

from fairness.policies.base import Policy
from fairness.shares import Group, Share, Tenant, paths
from fairness.ticket import Ticket


class Balances(NamedTuple):
    """What one scheduler of a pool hands to the next (`Scheduler.export`, `Scheduler.seed`), in whole thousandths of
    service / weight. `counters` by path (a tenant's id; a group's path ends in a slash), net of what the tickets that
    run are charged. `lift_targets` by group; "" is the root."""

    counters: Mapping[str, int] = {}
    lift_targets: Mapping[str, int] = {}


class Forest:
    """`weights` by path (a tenant's id, or that of a group) where they differ from `default_weight`.

    Raises ValueError for a weight that is not a finite number above 0.
    """

    def __init__(self, policy: Policy, weights: Mapping[str, float], default_weight: float) -> None:
        self._policy = policy
        self._weights = dict(weights)
        self._default_weight = default_weight
        for weight in (default_weight, *self._weights.values()):
            _check_weight(weight)
        self.least_weight = min((default_weight, *self._weights.values()))
        self._classes: dict[int, Group] = {}

    # -- weights -----------------------------------------------------------------------------------------------

    def weight(self, path: str) -> float:
        return self._weights.get(path, self._default_weight)

    def set_weight(self, path: str, weight: float) -> None:
        _check_weight(weight)
        self._weights[path] = weight
        self.least_weight = min(self.least_weight, weight)
        for root in self._classes.values():
            for share in (self.find(root, path), self.find(root, path + "/")):
                if share is not None:
                    share.weight = weight

    # -- the trees ---------------------------------------------------------------------------------------------

    def root(self, ticket: Ticket) -> Group:
        priority = ticket.priority if self._policy.aging else 0
        root = self._classes.get(priority)
        if root is None:
            root = self._classes[priority] = self._root(priority)
        return root

    def _root(self, priority: int) -> Group:
        path = f"class {priority}" if priority else ""
        return Group(path, None, quantum=self._policy.quantum, lifts=self._policy.lifts)

    def tenant(self, ticket: Ticket) -> Tenant:
        """The tenant of a ticket, made where it does not exist, with the groups above it."""
        return self._tenant(self.root(ticket), ticket.tenant)

    def _tenant(self, root: Group, tenant_id: str) -> Tenant:
        group = self._group(root, tenant_id)
        tenant = group.members.get(tenant_id)
        if tenant is None:
            tenant = group.members[tenant_id] = Tenant(tenant_id, group, self.weight(tenant_id))
        return cast(Tenant, tenant)

    def _group(self, group: Group, path: str) -> Group:
        """The group at `path`, or around the tenant there, made where it does not exist."""
        for name in self._above(path):
            inner = group.members.get(name)
            if inner is None:
                weight = self.weight(name[:-1])
                inner = Group(name, group, weight, quantum=group.quantum, lifts=group.lifts)
                group.members[name] = inner
            group = cast(Group, inner)
        return group

    def seed(self, balances: Balances) -> None:
        """Members and lift targets as they were elsewhere (`Scheduler.seed`)."""
        root = self._classes[0] = self._root(0)
        for path, lift_target in balances.lift_targets.items():
            self._group(root, path).lift_target = lift_target
        for path, counter in balances.counters.items():
            share = cast(Share, self._group(root, path) if path.endswith("/") else self._tenant(root, path))
            share.base = share.counter = counter
        for group in self.groups():
            group.settle_in()

    def export(self) -> Balances:
        """All members that are known, and the lift targets of their groups (`Scheduler.export`)."""
        counters = {share.path: share.base for share in self.shares()}
        return Balances(counters, {group.path: group.lift_target for group in self.groups()})

    def find(self, root: Group, path: str) -> Share | None:
        """A tenant by its id, or a group by its path and a slash, where it exists."""
        group: Share | None = root
        for inner in self._above(path.removesuffix("/")):
            group = group.members.get(inner) if isinstance(group, Group) else None
        return group.members.get(path) if isinstance(group, Group) else None

    def _above(self, path: str) -> list[str]:
        """The groups above a tenant, the topmost first."""
        return paths(path, self._policy.tree)[:0:-1]

    def roots(self) -> list[Group]:
        return list(self._classes.values())

    def shares(self) -> Iterator[Share]:
        """Every tenant and every group below the roots."""
        groups = self.roots()
        while groups:
            for share in groups.pop().members.values():
                yield share
                if isinstance(share, Group):
                    groups.append(share)

    def groups(self) -> Iterator[Group]:
        yield from self.roots()
        yield from [share for share in self.shares() if isinstance(share, Group)]

    # -- queue and classes -------------------------------------------------------------------------------------

    def waiting(self) -> int:
        return sum(root.waiting for root in self._classes.values())

    def class_in_turn(self) -> Group | None:
        """The first class with a ticket that waits, unless another has been passed over too often in a row."""
        if len(self._classes) == 1:
            (root,) = self._classes.values()
            return root if root.waiting else None
        waiting = [root for _, root in sorted(self._classes.items()) if root.waiting]
        if not waiting:
            return None
        aged = max(waiting, key=lambda root: root.passed)
        return aged if aged.passed >= self._policy.aging else waiting[0]

    def pass_over(self, root: Group) -> None:
        """`root` has the turn: count it for the classes that wait."""
        if len(self._classes) > 1:
            for other in self._classes.values():
                other.passed = other.passed + 1 if other.waiting and other is not root else 0

    def ahead(self, ticket: Ticket) -> int:
        """About how many tickets go before a new one: at each level its siblings take turns, one ticket each."""
        tenant = self.find(self.root(ticket), ticket.tenant)
        ahead = 0 if tenant is None else tenant.waiting
        group = self.root(ticket) if tenant is None else tenant.group
        while group is not None:
            ahead = min(group.waiting, ahead + (ahead + 1) * group.members_waiting)
            group = group.group
        return ahead


def _check_weight(weight: float) -> None:
    if not 0 < weight < inf:
        raise ValueError(f"weight {weight!r}: expected a finite number above 0")
