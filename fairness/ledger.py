"""Who pays: opens an account at every level of the tree when a ticket is dispatched, settles it as tokens are seen,
and closes it, or undoes it as if nothing had been."""

from __future__ import annotations

from itertools import count

from fairness.cost import CostFunction
from fairness.exposure import Exposure
from fairness.room import Room
from fairness.shares import Account, Group, Share, Tenant, milli
from fairness.ticket import Ticket


class Ledger:
    def __init__(self, cost: CostFunction, room: Room) -> None:
        self._cost = cost
        self._room = room
        self._exposure = Exposure()
        self._dispatches = count()
        self._owing: list[Group] = []  # groups with a requeued member that is behind the peak of the others

    @property
    def held(self) -> int:
        """Tokens of what runs: input, and output predicted or produced."""
        return self._exposure.held

    def open(self, tenant: Tenant, ticket: Ticket) -> None:
        """The ticket is dispatched: charge its input, and its output as far as it is predicted."""
        number = next(self._dispatches)
        accounts = []
        share: Share = tenant
        while (group := share.group) is not None:
            accounts.append(Account(share, share.weight, turn=share.turn if isinstance(share, Group) else 0))
            group.peak = max(group.peak, share.counter)
            share.running[ticket] = number
            share.overrun = 0
            share = group
        share.running[ticket] = number
        ticket.accounts = tuple(accounts)
        self._exposure.dispatched(ticket, self._room.capacity())

    def take_over(self, tenant: Tenant, ticket: Ticket) -> None:
        """The ticket was dispatched elsewhere and runs on: charge it as far as it is predicted or produced."""
        self.open(tenant, ticket)
        produced = max(ticket.predicted, ticket.produced)
        service = self._cost.service(ticket.input_tokens, produced, ticket.cached_tokens) + ticket.load
        for account in ticket.accounts:
            share = account.share
            if share.group is not None:
                share.group.peak = max(share.group.peak, share.counter + milli(service, account.weight))
                self.owe(share.group)
        self.settle(ticket, produced)

    def correct(self, ticket: Ticket, input_tokens: int, cached_tokens: int) -> None:
        """The input was counted anew."""
        growth = input_tokens - ticket.input_tokens
        if growth < 0 or cached_tokens > ticket.cached_tokens:
            self._exposure.refunded_input()
        ticket.input_tokens = input_tokens
        ticket.cached_tokens = cached_tokens
        self.settle(ticket, max(ticket.predicted, ticket.produced), growth)

    def settle(self, ticket: Ticket, produced: int, growth: int = 0) -> None:
        """Charge or refund, at every level, the difference between what the ticket owes and what it was charged.

        `growth` is the tokens by which it turned out larger (smaller when negative) than what it holds. Runs once a
        token, so it is one loop. What was not set aside is noted before a counter moves: an auditor may ask for the
        bound at any move.
        """
        unreserved = 0
        if growth:
            self._exposure.held += growth
            unreserved = self._room.grow(ticket, growth)
        service = self._cost.service(ticket.input_tokens, produced, ticket.cached_tokens) + ticket.load
        for account in ticket.accounts:
            share = account.share
            if unreserved > 0:
                share.overrun += unreserved
                if share.overrun > self._exposure.overrun:
                    self._exposure.overrun = share.overrun
            delta = milli(service, account.weight) - account.charged
            if delta:
                account.charged += delta
                share.move(delta)

    def close(self, root: Group, ticket: Ticket) -> None:
        """The ticket is over: what was predicted and not produced is refunded, the rest is final."""
        self.settle(ticket, ticket.produced)
        self._exposure.ended(ticket)
        self._room.release(ticket)
        number = root.running.pop(ticket)
        for account in ticket.accounts:
            share = account.share
            del share.running[ticket]
            share.base += account.charged
            if (group := share.group) is not None:
                group.last_ended = max(group.last_ended, (number, share), key=lambda ended: ended[0])
                group.rest(share)

    def undo(self, root: Group, ticket: Ticket) -> None:
        """The ticket was never dispatched: nothing was charged, and its groups' turns are still to come."""
        self._exposure.ended(ticket)
        self._room.release(ticket)
        del root.running[ticket]
        for account in ticket.accounts:
            del account.share.running[ticket]
            self._owe_undone(account)
            if isinstance(account.share, Group):
                account.share.give_back(account.turn)
            account.share.move(-account.charged)
        ticket.produced = ticket.predicted = ticket.cached_tokens = 0
        ticket.worker, ticket.load, ticket.accounts = "", 0.0, ()

    # -- what the bound is made of -----------------------------------------------------------------------------

    def most_rise(self) -> float:
        """U, in service units (`Exposure.most_rise`)."""
        return self._exposure.most_rise(self._cost, self._room.capacity())

    def rounding(self) -> int:
        """Counter units by which rounding may exceed the bound: one for each ticket that was in flight together."""
        return self._exposure.most_running

    def owed(self) -> int:
        """How far the least sibling that waits is behind the peak which the others had reached when a ticket was
        requeued below it, or ran under another scheduler: until it has been served up to there, the gap may be larger
        by that much."""
        most = 0
        for group in list(self._owing):
            least = group.least()
            if least is not None and least.counter >= group.owed:
                self._owing.remove(group)
            elif least is not None:
                most = max(most, group.owed - least.counter)
        return most

    def owe(self, group: Group) -> None:
        """Members may be behind its peak by more than what is in flight explains."""
        group.owed = group.peak
        if group not in self._owing:
            self._owing.append(group)

    def _owe_undone(self, account: Account) -> None:
        share, group = account.share, account.share.group
        if group is not None and share.counter - account.charged < group.peak:
            self.owe(group)
