"""The tree of shares: tenants, the groups they form, and the order in which the members of a group take turns.

A tenant id is a path. `acme/search/alice` is the tenant `alice` of the group `acme/search`, itself a member of
`acme`, a member of the root; a flat id is a tenant of the root. Every member of a group has a weight and a counter,
and the law (lift, charge, pick, bound) holds among the members of each group alike.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from fairness.auditor import Watch
from fairness.ticket import LawError, State, Ticket

MILLI = 1000  # counter units in one unit of service at weight 1


def milli(service: float, weight: float) -> int:
    """Counter units for the whole `service` of a ticket: rounded once, so that whoever counts agrees to the unit."""
    return int(service * MILLI / weight + 0.5)


def paths(tenant_id: str, tree: bool = True) -> list[str]:
    """A tenant and the groups above it, bottom up; without a tree of shares the tenant alone. A group's own path
    ends in a slash: `acme/search/alice`, `acme/search/`, `acme/`."""
    if not tree or "/" not in tenant_id:
        return [tenant_id]
    return [tenant_id, *[tenant_id[: i + 1] for i in range(len(tenant_id) - 1, -1, -1) if tenant_id[i] == "/"]]


Entry = tuple[int, int, "Share"]  # (counter in quanta, who comes first among equals, member)


@dataclass(slots=True, eq=False)
class Share:
    """A member of a group. Exists only while it has work or its counter still matters."""

    path: str
    group: Group | None
    weight: float = 1.0
    counter: int = 0
    base: int = 0  # counter without the charges of what runs now: lifts + charges of what has ended
    waiting: int = 0  # tickets that wait, in it or below
    running: dict[Ticket, int] = field(default_factory=dict)  # in dispatch order -> dispatch number
    overrun: int = 0  # tokens beyond their reservation since this member's last turn
    entry: Entry | None = None
    idle: bool = False  # it is in its group's heap of idle members
    watch: Watch | None = None

    def precedence(self) -> int:
        """The smaller comes first among members with equal counters."""
        raise NotImplementedError

    def move(self, delta: int) -> None:
        """Its counter rises by `delta`, or falls where that is negative."""
        self.counter += delta
        if delta < 0 and self.waiting and self.group is not None:
            self.group.reorder(self)
        if self.watch is not None:
            self.watch.moved(delta)

    def at_rest(self) -> bool:
        return not self.waiting and not self.running


@dataclass(slots=True, eq=False)
class Tenant(Share):
    """A leaf: the one queue of a tenant."""

    # Most tenants that wait have one ticket: only behind a first one there is a deque, which is 760 bytes when empty.
    front: Ticket | None = None
    behind: deque[Ticket] | None = None  # cancelled tickets are dropped lazily

    def head(self) -> Ticket:
        """The oldest ticket that waits. Raises LawError when none does."""
        while self.front is None or self.front.state is not State.WAITING:
            if not self.behind:
                raise LawError(f"{self.path} has no head: nothing waits")
            self.front = self.behind.popleft()
        return self.front

    def take(self) -> None:
        """The head has left."""
        self.front = None
        if not self.behind:
            self.behind = None

    def precedence(self) -> int:
        return self.head().seq

    def insert(self, ticket: Ticket) -> None:
        """At its place by sequence number: the end, unless it has been here before."""
        if self.front is None and not self.behind:
            self.front = ticket
            return
        if self.front is not None and ticket.seq < self.front.seq:
            ticket, self.front = self.front, ticket
        behind = self.behind = self.behind if self.behind is not None else deque()
        if behind and behind[-1].seq > ticket.seq:
            behind.insert(next(i for i, other in enumerate(behind) if other.seq > ticket.seq), ticket)
        else:
            behind.append(ticket)

    def tidy(self) -> None:
        """Drop cancelled tickets before they outnumber those that wait."""
        if not self.waiting:
            self.front = self.behind = None
        elif self.behind is not None and len(self.behind) > 2 * self.waiting + 8:
            self.behind = deque([ticket for ticket in self.behind if ticket.state is State.WAITING])

    def tickets(self) -> list[Ticket]:
        """Those that wait, the oldest first."""
        found = [*([self.front] if self.front is not None else []), *(self.behind or ())]
        return [ticket for ticket in found if ticket.state is State.WAITING]


@dataclass(slots=True, eq=False)
class Group(Share):
    """An inner node, or the root: its members, in the order of their turns."""

    quantum: int = 1  # counter differences below it do not matter to the order
    lifts: bool = True  # without lifts nothing is ever forgotten: a counter is all that is known of a member
    turn: int = 0  # when it last took a turn, or began to wait
    members: dict[str, Share] = field(default_factory=dict)
    members_waiting: int = 0
    lift_target: int = 0  # whoever begins to wait is raised to it; never decreases
    peak: int = 0  # the highest counter that a member had when its turn came
    owed: int = 0  # the peak that a requeued member has not been served up to yet; 0: there is none
    passed: int = 0  # turns of other classes while this one waited, in a row
    last_ended: tuple[int, Share | None] = (-1, None)  # the latest dispatch among tickets that ended
    order: list[Entry] = field(default_factory=list)
    resting: list[tuple[int, str, Share]] = field(default_factory=list)

    def precedence(self) -> int:
        return self.turn

    def give_back(self, turn: int) -> None:
        """A turn that it took did not happen."""
        self.turn = min(self.turn, turn) if self.waiting else turn
        if self.waiting and self.group is not None:
            self.group.reorder(self)

    # -- order -------------------------------------------------------------------------------------------------

    def least(self) -> Share | None:
        """The member whose turn it is: moves stale keys down until the top one is true."""
        order = self.order
        while order:
            entry = order[0]
            member = entry[2]
            if member.entry != entry:
                heapq.heappop(order)
                continue
            key = member.counter // self.quantum
            precedence = member.precedence()
            if entry[0] == key and entry[1] == precedence:
                return member
            member.entry = (key, precedence, member)
            heapq.heapreplace(order, member.entry)
        return None

    def first(self) -> Tenant | None:
        """The tenant whose turn it is: descends by the smallest counter."""
        member = self.least()
        while isinstance(member, Group):
            member = member.least()
        return member if isinstance(member, Tenant) else None

    def near(self, slack: int, most: int) -> Iterator[Tenant]:
        """The tenants that may have the turn when at every level a counter may be `slack` above the least, in
        order; at most `most` members of a group are looked at."""
        for member in self._nearest(slack, most):
            if isinstance(member, Tenant):
                yield member
            elif isinstance(member, Group):
                yield from member.near(slack, most)

    def _nearest(self, slack: int, most: int) -> list[Share]:
        nearest: list[Share] = []
        while len(nearest) < most and (member := self.least()) is not None:
            if nearest and member.counter > nearest[0].counter + slack:
                break
            heapq.heappop(self.order)
            nearest.append(member)
        for member in nearest:
            if member.entry is not None:
                heapq.heappush(self.order, member.entry)
        return nearest

    def reorder(self, member: Share) -> None:
        """Give a member that waits a new place when its key may have fallen; a key that rose is moved later."""
        key = (member.counter // self.quantum, member.precedence())
        if member.entry is not None and member.entry[:2] <= key:
            return
        member.entry = (*key, member)
        heapq.heappush(self.order, member.entry)
        if len(self.order) > 2 * self.members_waiting + 64:
            self.order = [entry for entry in self.order if entry[2].entry == entry]
            heapq.heapify(self.order)

    # -- lift and oblivion -------------------------------------------------------------------------------------

    def lift(self, member: Share) -> None:
        """`member` is about to wait: raise its counter to the lift target. That first rises to the counter of the
        member whose turn it is or, when nobody waits, of the one whose request left the queue last. It never falls.

        Example, after a refund: a runs and is charged 100, most of it a prediction. b comes when nobody waits: it is
        lifted to 100, a having left the queue last, and the lift target is 100. b leaves unserved and is forgotten.
        a ends, having cost 30 only. When c comes it is lifted to 100, not to 30. And so is b if it comes again: that
        it stood at 100 is remembered in the lift target alone, so this must not follow a down.
        """
        self._raise_lift_target(self.least() or self.last_left())
        self.catch_up(member)

    def _raise_lift_target(self, other: Share | None) -> None:
        if other is not None and other.counter > self.lift_target:
            self.lift_target = other.counter

    def catch_up(self, member: Share) -> None:
        """`member` is about to wait: raise its counter to the lift target as it stands, which stays. At a lift target
        of 200, a member at 100 begins at 200, and one at 900 at 900."""
        if member.counter < self.lift_target:
            member.base += self.lift_target - member.counter
            member.counter = self.lift_target

    def last_left(self) -> Share | None:
        """The member whose request left the queue last, by order of dispatch; None: it is not known. A requeued
        dispatch never happened.

        Example: tickets of a, b and c are dispatched as numbers 1, 2 and 3. c's is requeued, so it was b. b's ends:
        it is b still (`last_ended` is 2), though of those that run a's is the latest. c's has its turn again, as
        number 4: it is c.
        """
        number, member = self.last_ended
        if self.running:
            ticket = next(reversed(self.running))
            if self.running[ticket] > number:
                return next(account.share for account in ticket.accounts if account.share.group is self)
        return member

    def rest(self, member: Share) -> None:
        """`member` may have come to be without work: forget it if its counter does not matter any more.

        Example, at a lift target of 100: a stands at 80 and is forgotten, for when it comes back the lift sets 100,
        whether its 80 is known or not. b stands at 130 and is set aside: were it forgotten it would come back at 100,
        and have 30 for nothing. When the lift target has risen to 130, `forget` drops it.
        """
        if not member.at_rest() or (isinstance(member, Group) and not member.forgettable()):
            return
        if member.counter > self.lift_target:
            self.set_aside(member)
        elif not member.idle:
            del self.members[member.path]

    def settle_in(self) -> None:
        """Its members were seeded, and who left the queue last is not known: take the member with the highest counter
        for it. Then whoever begins to wait while nobody else does is lifted to the highest counter, and cannot begin
        with less than any other member has received.

        Example: a is seeded with 500 and b with 300. c, which is new, comes first and begins at 500, though it would
        have been 300 had b been the last. A wrong guess puts c too high, here by 200; without one it would begin at 0,
        and have all turns to itself until it came to b's 300.
        """
        for member in self.members.values():
            self.set_aside(member)
            if member.counter >= self.peak:
                self.peak = member.counter
                self.last_ended = (-1, member)

    def set_aside(self, member: Share) -> None:
        """Look at a member again when the lift target has reached its counter."""
        if not member.idle:
            member.idle = True
            heapq.heappush(self.resting, (member.counter, member.path, member))

    def forgettable(self) -> bool:
        """A group without work can be forgotten with all its members if none of their counters matters any more.
        Whichever member comes next is lifted to the one that left the queue last, so that lift is done now.

        Example: in group x, b was served 70 and then a, which waited from the beginning, 50. Now the lift target of x
        is 50, and a is forgotten. b stands at 70, so b and x stay known: forgotten, x would begin again with both at 0
        and b would have its 20 more for nothing. Had b been served 40, nobody in x would be left to know: x can go as
        soon as its own counter does not matter, since to begin again at 0 is the same as to go on at 50.
        """
        if self.lifts:
            self._raise_lift_target(self.last_left())
        self.forget()
        return not self.members

    def forget(self) -> None:
        """The lift target rose: forget whom it has reached."""
        resting = self.resting
        while resting and resting[0][0] <= self.lift_target:
            member = heapq.heappop(resting)[2]
            member.idle = False
            self.rest(member)


@dataclass(slots=True, eq=False)
class Account:
    """What one member has been charged for one ticket in flight."""

    share: Share
    weight: float  # the member's when the ticket was dispatched: what it is charged, and refunded, is priced at that
    charged: int = 0
    turn: int = 0  # a group's turn before this ticket took it
