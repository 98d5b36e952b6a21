"""A law with one rule broken must be caught by the same worlds that the true law passes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from fairness import LawError, Scheduler, Ticket
from fairness.exposure import Exposure
from fairness.forest import Forest
from fairness.ledger import Ledger
from fairness.shares import Group, Share

from .plain import PLAIN_ONLY
from .world import KINDS, TREE, UNUSUAL, World, random_ops, random_setting

WORLDS = 150
Patch = tuple[type, str, Callable[..., Any]]


def plays(seed: int) -> None:
    chance = random.Random(seed)
    setting = random_setting(chance, tenants=TREE if seed % 3 == 0 else ("a", "b", "c", "d"))
    World(setting).play(random_ops(chance, 100, (*KINDS, *UNUSUAL)))


def test_the_true_law_passes_every_world() -> None:
    for seed in range(WORLDS):
        plays(seed)


def lift_dropped(self: Group, member: Share) -> None:
    pass


def lift_dropped_while_nobody_waits(self: Group, member: Share) -> None:
    if (least := self.least()) is not None:
        _lift_to(self, member, max(self.lift_target, least.counter))


def lift_target_that_falls(self: Group, member: Share) -> None:
    if (other := self.least() or self.last_left()) is not None:
        _lift_to(self, member, other.counter)


def lift_to_the_most(self: Group, member: Share) -> None:
    waiting = [other.counter for other in self.members.values() if other.waiting]
    _lift_to(self, member, max([self.lift_target, *waiting]))


def _lift_to(group: Group, member: Share, target: int) -> None:
    group.lift_target = target
    if member.counter < target:
        member.base += target - member.counter
        member.counter = target


def forget_too_early(self: Group, member: Share) -> None:
    if member.at_rest() and not member.path.endswith("/"):
        del self.members[member.path]


def charge_twice_at_the_end(self: Scheduler, ticket: Ticket) -> None:
    true_finish(self, ticket)
    for account in ticket.accounts:
        account.share.base += account.charged
        account.share.counter += account.charged


def refund_nothing(self: Ledger, root: Group, ticket: Ticket) -> None:
    ticket.produced = max(ticket.produced, ticket.predicted)
    true_close(self, root, ticket)


def requeue_that_lifts(self: Scheduler, ticket: Ticket) -> None:
    true_requeue(self, ticket)
    for share in self._forest.shares():
        if share.waiting == 1 and isinstance(share.group, Group):
            _lift_to(share.group, share, share.group.lift_target)
            share.group.reorder(share)


def requeue_at_the_end(self: Scheduler, ticket: Ticket) -> None:
    ticket.seq = next(self._queue._seq)
    true_requeue(self, ticket)


def count_no_overrun(self: Ledger, ticket: Ticket, produced: int, growth: int = 0) -> None:
    true_settle(self, ticket, produced, growth)
    self._exposure.overrun = 0


def round_each_charge(self: Ledger, ticket: Ticket, produced: int, growth: int = 0) -> None:
    """Each charge rounded for itself, where the sum of them should be."""
    true_settle(self, ticket, produced, growth)
    for account in ticket.accounts:
        off = account.charged % 7 == 3
        account.charged -= off
        account.share.counter -= off


def reprice_what_runs(self: Forest, path: str, weight: float) -> None:
    true_set_weight(self, path, weight)
    for share in self.shares():
        for ticket in share.running:
            next(account for account in ticket.accounts if account.share is share).weight = share.weight


def reserve_no_prediction(self: Exposure, ticket: Ticket, capacity: Any) -> None:
    self.held += ticket.input_tokens + ticket.predicted


true_finish, true_requeue = Scheduler.finish, Scheduler.requeue
true_close, true_settle = Ledger.close, Ledger.settle
true_set_weight = Forest.set_weight

MUTANTS: list[Patch] = [
    (Group, "lift", lift_dropped),
    (Group, "lift", lift_dropped_while_nobody_waits),
    (Group, "lift", lift_target_that_falls),
    (Group, "lift", lift_to_the_most),
    (Group, "rest", forget_too_early),
    (Scheduler, "finish", charge_twice_at_the_end),
    (Ledger, "close", refund_nothing),
    (Scheduler, "requeue", requeue_that_lifts),
    (Scheduler, "requeue", requeue_at_the_end),
    (Ledger, "settle", count_no_overrun),
    (Ledger, "settle", round_each_charge),
    (Forest, "set_weight", reprice_what_runs),
    (Exposure, "dispatched", reserve_no_prediction),
]


@PLAIN_ONLY
@pytest.mark.parametrize(("where", "name", "mutant"), MUTANTS, ids=[mutant.__name__ for _, _, mutant in MUTANTS])
def test_a_mutant_is_caught(monkeypatch: pytest.MonkeyPatch, where: type, name: str, mutant: Any) -> None:
    monkeypatch.setattr(where, name, mutant)
    for seed in range(WORLDS):
        try:
            plays(seed)
        except (AssertionError, LawError):
            return
    pytest.fail("every world passed")
