"""The queue of a pool: what waits, at every level of the tree of shares.

A ticket that waits in its tenant waits in every group above it. So each way in or out climbs from the tenant to the
root: a member with its first ticket begins to wait among its siblings, one whose last ticket is gone stops waiting.
Between the two the auditor watches it. What is charged on the way is the ledger's.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from math import inf

from fairness.auditor import Auditor
from fairness.deadlines import Deadlines
from fairness.forest import Balances, Forest
from fairness.ledger import Ledger
from fairness.shares import Group, Share, Tenant
from fairness.ticket import State, Ticket


class Queue:
    """`lifts`: a member that begins to wait is lifted (`Policy.lifts`)."""

    def __init__(self, forest: Forest, ledger: Ledger, *, lifts: bool, auditor: Auditor | None) -> None:
        self._forest = forest
        self._ledger = ledger
        self._lifts = lifts
        self._auditor = auditor
        self._deadlines = Deadlines()
        self._seq = count()  # places in the queue, and turns of groups
        self._seeded: set[str] = set()  # until the first turn: members whose seeded counters say whether they waited

    # -- in ----------------------------------------------------------------------------------------------------

    def join(self, ticket: Ticket) -> None:
        """A new ticket, behind all others."""
        ticket.seq = next(self._seq)
        self._enter(self._forest.tenant(ticket), ticket, new=True)

    def put_back(self, ticket: Ticket) -> None:
        """A ticket whose dispatch was undone: in its old place, and nobody is lifted."""
        self._enter(self._forest.tenant(ticket), ticket, new=False)

    def seed(self, balances: Balances) -> None:
        """What joins before the first turn waited before, under another scheduler (`Scheduler.seed`)."""
        self._forest.seed(balances)
        self._seeded = set(balances.counters)

    # -- out ---------------------------------------------------------------------------------------------------

    def class_in_turn(self) -> Group | None:
        """The class whose turn it is; None: nobody waits. From here on whoever begins to wait is new."""
        if self._seeded:
            self._seeded = set()
        return self._forest.class_in_turn()

    def take(self, tenant: Tenant) -> None:
        """The tenant's oldest ticket has its turn, and the groups above it take theirs with it."""
        tenant.take()
        share: Share = tenant
        while (group := share.group) is not None:
            if isinstance(share, Group):
                share.turn = next(self._seq)
            self._leave(share, group)
            share = group
        share.waiting -= 1

    def take_over(self, ticket: Ticket) -> None:
        """A ticket had its turn under another scheduler, after all that was taken over before it."""
        ticket.seq = next(self._seq)
        group = self._forest.tenant(ticket).group
        while group is not None:
            group.turn = next(self._seq)
            group = group.group

    def drop(self, ticket: Ticket) -> None:
        """A ticket that waited was cancelled. Members without work may be forgotten."""
        tenant = self._forest.tenant(ticket)
        share: Share = tenant
        while (group := share.group) is not None:
            self._leave(share, group)
            group.rest(share)
            share = group
        share.waiting -= 1
        tenant.tidy()

    # -- inspection --------------------------------------------------------------------------------------------

    def due(self, now: float) -> Iterator[Ticket]:
        """Tickets that still wait at or after their deadline, each told of once."""
        return self._deadlines.due(now)

    def next_deadline(self) -> float:
        return self._deadlines.next()

    def length(self, tenant_id: str | None) -> int:
        """Tickets that wait, of a tenant or a group (over all classes), or of all (None)."""
        if tenant_id is None:
            return self._forest.waiting()
        found = [self._forest.find(root, tenant_id) for root in self._forest.roots()]
        return sum(share.waiting for share in found if share is not None)

    # -- inside ------------------------------------------------------------------------------------------------

    def _enter(self, tenant: Tenant, ticket: Ticket, *, new: bool) -> None:
        ticket.state = State.WAITING
        if ticket.deadline != inf:
            self._deadlines.push(ticket, self._forest.waiting())
        tenant.insert(ticket)
        share: Share = tenant
        while (group := share.group) is not None:
            share.waiting += 1
            if share.waiting > 1:
                group.reorder(share)
            else:
                self._begin(share, group, new)
            share = group
        share.waiting += 1

    def _begin(self, share: Share, group: Group, new: bool) -> None:
        """A member begins to wait among its siblings."""
        if new and isinstance(share, Group):
            share.turn = next(self._seq)
        if new and self._lifts:
            self._lift(share, group)
        group.members_waiting += 1
        group.reorder(share)
        if self._auditor is not None:
            share.watch = self._auditor.joined(_in_its_class(group), share.path, share.counter)

    def _lift(self, share: Share, group: Group) -> None:
        if share.path in self._seeded:
            group.catch_up(share)
            self._ledger.owe(group)
        else:
            group.lift(share)
        if not self._seeded:  # or a group whose tickets are still to come is forgotten
            group.forget()

    def _leave(self, share: Share, group: Group) -> None:
        """One ticket fewer waits; with the last one, the member stops waiting."""
        share.waiting -= 1
        if share.waiting:
            return
        group.members_waiting -= 1
        share.entry = None
        if share.watch is not None:
            share.watch.left()
            share.watch = None


def _in_its_class(group: Group) -> str:
    """A name that no group of another class has: `acme/` is in each class, and the two are not compared."""
    root = group
    while root.group is not None:
        root = root.group
    return f"{root.path} {group.path}".strip()
