"""A replica's own book says what the scheduler charged, to the unit, without having a scheduler."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from fairness import Book, LawError, State, Ticket, Weighted, paths
from fairness.policies.fcfs import Fcfs

from .world import KINDS, TREE, UNUSUAL, World, random_ops, random_setting


class BookWorld(World):
    """Keeps a book beside the scheduler, told by the same reports."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.book = Book(self.setting.policy().measure(self.setting.cost))

    def _receive(self, ticket: Ticket) -> None:
        super()._receive(ticket)
        if ticket.state is State.RUNNING and not self.book.charged(ticket):
            self.book.open(ticket, [self.scheduler.weight(path.removesuffix("/")) for path in self.levels(ticket)])
        elif ticket.state is State.RUNNING:
            self.book.settle(ticket)
        elif ticket.state is State.WAITING:
            self.book.undo(ticket)
        else:
            self.book.close(ticket)

    def levels(self, ticket: Ticket) -> list[str]:
        return paths(ticket.tenant, self.setting.policy().tree)

    def check(self) -> None:
        super().check()
        charged = Counter[str]()
        for ticket in self.tickets:
            for account in ticket.accounts:
                charged[account.share.path] += account.charged
        assert {path: total for path, total in self.book.totals().items() if total} == +charged
        for ticket in self.all(State.RUNNING):
            assert self.book.charged(ticket) == [account.charged for account in ticket.accounts]
            assert self.book.weights(ticket) == [account.weight for account in ticket.accounts]
        assert set(self.book.open_tickets()) == set(self.all(State.RUNNING))


@pytest.mark.parametrize("tenants", [("a", "b", "c", "d"), TREE], ids=["flat", "tree"])
def test_totals_are_what_the_scheduler_charged(tenants: tuple[str, ...]) -> None:
    for seed in range(60):
        chance = random.Random(seed)
        setting = random_setting(chance, tenants=tenants)
        BookWorld(setting).play(random_ops(chance, 80, (*KINDS, *UNUSUAL)))


def test_a_policy_without_a_tree_charges_the_tenant_alone() -> None:
    book = Book(Fcfs().measure(Weighted()))
    book.open(Ticket("t", "acme/search/alice", 10, 5, predicted=3), [2.0])
    assert book.totals() == {"acme/search/alice": 8000}


def test_each_level_is_charged_at_its_own_weight_and_rounded_once() -> None:
    book = Book(Weighted())
    ticket = Ticket("t", "acme/search/alice", 10, 50, predicted=2)
    book.open(ticket, [3.0, 1.0, 0.5])
    assert book.charged(ticket) == [4667, 14_000, 28_000]
    for ticket.produced in (1, 2, 3, 4, 5):
        book.settle(ticket)
    assert book.totals() == {"acme/search/alice": 6667, "acme/search/": 20_000, "acme/": 40_000}
    ticket.cached_tokens, ticket.input_tokens, ticket.predicted = 0, 7, 9
    book.settle(ticket)
    book.close(ticket)
    assert book.totals() == {"acme/search/alice": 5667, "acme/search/": 17_000, "acme/": 34_000}


def test_what_is_not_open_is_left_alone_and_a_path_is_never_forgotten() -> None:
    book = Book(Weighted())
    ticket = Ticket("t", "a", 10, 50)
    for report in (book.settle, book.close, book.undo):
        report(ticket)
    assert (book.totals(), book.charged(ticket), book.weights(ticket)) == ({}, [], [])
    book.open(ticket, [1.0])
    with pytest.raises(LawError, match="t is open"):
        book.open(ticket, [1.0])
    book.undo(ticket)
    assert book.totals() == {"a": 0}
    book.open(ticket, [1.0])
    book.close(ticket)
    ticket.produced = 40
    for report in (book.settle, book.close, book.undo):
        report(ticket)
    assert book.totals() == {"a": 10_000}
    assert list(book.open_tickets()) == []


def test_weights_must_be_as_many_as_levels() -> None:
    with pytest.raises(ValueError, match="zip"):
        Book(Weighted()).open(Ticket("t", "acme/alice", 1, 1), [1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("tenant", "levels"),
    [("a", ["a"]), ("acme/alice", ["acme/alice", "acme/"]), ("x/y/z", ["x/y/z", "x/y/", "x/"])],
)
def test_paths_go_bottom_up(tenant: str, levels: list[str]) -> None:
    assert paths(tenant) == levels
    assert paths(tenant, tree=False) == [tenant]
