"""A pool's state moves into a fresh scheduler (`export`, `seed`, `resume`, `submit`), which goes on as the law says."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from fairness import (
    AdapterRoom,
    Auditor,
    Balances,
    Crossing,
    LawError,
    MaxTokens,
    Scheduler,
    State,
    Ticket,
    Weighted,
    Worker,
    WorkerRoom,
    parse_policy,
)
from fairness.forest import Forest
from fairness.ledger import Ledger
from fairness.policies import Policy, Vtc
from fairness.queue import Queue
from fairness.shares import Group, Share, Tenant

from .plain import PLAIN_ONLY
from .test_law import POLICIES
from .world import KINDS, TREE, Setting, World, random_ops, random_setting

MOVES = (*KINDS, "health", "move", "move")
DEEP = ("x/y/z/a", "x/y/z/b", "x/y/c", "x/y/d", "x/w/e", "x/w/f")  # three levels of groups


def alarmed(crossing: Crossing) -> None:
    raise AssertionError(f"a false alarm: {crossing}")


def moved(ticket: Ticket) -> Ticket:
    """The same request, as another scheduler is told of it."""
    return replace(ticket, state=State.NEW, seq=-1, worker="", reserved=0, accounts=())


class MovingWorld(World):
    """Now and then everything moves into a fresh scheduler; the plain reference goes on, told only of the move."""

    moves = 0

    def do_move(self, a: int, b: int) -> None:
        self.moves += 1
        self.drop_too_large()
        running = [self.ticket(job.name) for job in self.reference.dispatched if job.name in self.reference.jobs]
        waiting = [self.ticket(job.name) for job in self.reference.queue("")]
        balances = self.scheduler.export()
        self.reference.move()
        self.room = WorkerRoom([replace(worker, running=0, reserved=0) for worker in self.room.workers.values()])
        self.scheduler = self.fresh()
        self.scheduler.seed(balances)
        for ticket in running:
            self.scheduler.resume(self.swap(ticket), ticket.worker)
            self.scheduler.check_integrity()
        for ticket in waiting:
            assert self.scheduler.submit(self.swap(ticket), self.now) is None
            self.scheduler.check_integrity()
        self.do_pick(a, b)  # from here on whoever begins to wait is new

    def drop_too_large(self) -> None:
        """A ticket whose input was counted, and which then was requeued, may be too large to be submitted anew."""
        for ticket in self.all(State.WAITING):
            if ticket.input_tokens + 1 > self.room.capacity().largest:
                self.scheduler.cancel(ticket)
                self.reference.leave(ticket.id)

    def fresh(self) -> Scheduler:
        s = self.setting
        auditor = Auditor(alarmed, lambda: self.now) if s.bounded else None
        weights = self.reference.weights
        return s.scheduler(s.policy(), s.cost, self.room, weights=weights, predictor=s.predictor(), auditor=auditor)

    def ticket(self, name: str) -> Ticket:
        return next(ticket for ticket in self.tickets if ticket.id == name)

    def swap(self, ticket: Ticket) -> Ticket:
        """A new ticket in the place of one that moves."""
        new = moved(ticket)
        self.tickets[self.tickets.index(ticket)] = new
        for book in (self.seen, self.weights):
            if ticket in book:
                book[new] = book.pop(ticket)  # type: ignore[attr-defined, index]
        return new


def play(seed: int, setting: Setting) -> MovingWorld:
    chance = random.Random(seed)
    world = MovingWorld(setting)
    world.play(random_ops(chance, 120, MOVES))
    return world


def play_all(tenants: tuple[str, ...]) -> list[MovingWorld]:
    return [play(seed, random_setting(random.Random(seed), tenants=tenants)) for seed in range(60)]


@pytest.mark.parametrize("tenants", [("a", "b", "c", "d"), TREE, DEEP], ids=["flat", "tree", "deep"])
def test_after_a_move_every_decision_and_counter_is_still_the_reference_models(tenants: tuple[str, ...]) -> None:
    worlds = play_all(tenants)
    assert sum(world.moves for world in worlds) > 300
    assert sum(len(world.turns) for world in worlds) > 500


@pytest.mark.parametrize("policy", ["fcfs", "lcf", "drr:40"])
def test_every_policy_moves(policy: str) -> None:
    for seed in range(20):
        setting = random_setting(random.Random(seed))
        other = {"policy": partial(parse_policy, policy), "reference": POLICIES[policy], "bounded": False}
        play(seed, setting._replace(**other))


def seeded_members_lifted_like_new_ones(self: Queue, share: Share, group: Group) -> None:
    group.lift(share)
    group.forget()


def seeded_members_not_lifted(self: Queue, share: Share, group: Group) -> None:
    if share.path not in self._seeded:
        true_lift(self, share, group)


def groups_forgotten_before_they_are_back(self: Queue, share: Share, group: Group) -> None:
    true_lift(self, share, group)
    group.forget()


def nobody_left_last(self: Group) -> None:
    for member in self.members.values():
        self.set_aside(member)


def nothing_is_owed(self: Ledger, group: Group) -> None:
    pass


def taken_over_for_its_input_only(self: Ledger, tenant: Tenant, ticket: Ticket) -> None:
    self.open(tenant, ticket)
    self.settle(ticket, 0)


def lift_targets_forgotten(self: Forest, balances: Balances) -> None:
    true_seed(self, balances._replace(lift_targets={}))


def all_but_the_roots_lift_target_forgotten(self: Forest, balances: Balances) -> None:
    true_seed(self, balances._replace(lift_targets={"": balances.lift_targets.get("", 0)}))


def what_runs_exported_too(self: Forest) -> Balances:
    return true_export(self)._replace(counters={share.path: share.counter for share in self.shares()})


true_seed, true_export, true_lift = Forest.seed, Forest.export, Queue._lift

MUTANTS: list[tuple[type, str, Callable[..., None]]] = [
    (Queue, "_lift", seeded_members_lifted_like_new_ones),
    (Queue, "_lift", seeded_members_not_lifted),
    (Queue, "_lift", groups_forgotten_before_they_are_back),
    (Group, "settle_in", nobody_left_last),
    (Ledger, "owe", nothing_is_owed),
    (Ledger, "take_over", taken_over_for_its_input_only),
    (Forest, "seed", lift_targets_forgotten),
    (Forest, "seed", all_but_the_roots_lift_target_forgotten),
    (Forest, "export", what_runs_exported_too),
]


@PLAIN_ONLY
@pytest.mark.parametrize(("where", "name", "mutant"), MUTANTS, ids=[mutant.__name__ for _, _, mutant in MUTANTS])
def test_a_move_with_one_rule_broken_is_caught(
    monkeypatch: pytest.MonkeyPatch, where: type, name: str, mutant: Callable[..., None]
) -> None:
    monkeypatch.setattr(where, name, mutant)
    with pytest.raises((AssertionError, LawError)):
        play_all(TREE)


# -- by example ----------------------------------------------------------------------------------------------------


def pool(policy: Policy | None = None, slots: int = 4, tokens: int = 100) -> Scheduler:
    room = WorkerRoom([Worker("w", slots, tokens)])
    return Scheduler(policy or Vtc(), Weighted(), room, predictor=MaxTokens())


def submit(scheduler: Scheduler, tenant: str, n_in: int = 10, n_out: int = 5) -> Ticket:
    ticket = Ticket(tenant, tenant, n_in, n_out)
    assert scheduler.submit(ticket, 0.0) is None
    return ticket


def counters(scheduler: Scheduler) -> dict[str, float]:
    return {path: state.counter for path, state in scheduler.snapshot().tenants.items()}


def test_a_seeded_member_is_lifted_only_from_below_the_target() -> None:
    scheduler = pool()
    scheduler.seed(Balances({"ahead": 900_000, "level": 300_000, "behind": 100_000}, {"": 200_000}))
    for tenant in ("ahead", "level", "behind"):
        submit(scheduler, tenant)
    assert counters(scheduler) == {"ahead": 900.0, "level": 300.0, "behind": 200.0}
    assert [grant.ticket.id for grant in iter(scheduler.pick, None)] == ["behind", "level", "ahead"]


def test_whoever_is_new_is_lifted_as_always() -> None:
    scheduler = pool()
    scheduler.seed(Balances({"known": 500_000, "away": 100_000}))
    submit(scheduler, "known")
    submit(scheduler, "new")
    assert counters(scheduler)["new"] == 500.0
    assert scheduler.pick() is not None
    submit(scheduler, "away")
    assert counters(scheduler)["away"] == 500.0, "once the move is over it is as new"


def test_nobody_rides_free_where_nothing_waits_or_runs() -> None:
    scheduler = pool()
    scheduler.seed(Balances({"served": 500_000, "x/": 900_000, "x/a": 40_000}))
    assert scheduler.pick() is None
    for tenant in ("x/b", "new"):
        submit(scheduler, tenant)
    assert counters(scheduler) == {"x/b": 40.0, "new": 900.0}


def test_members_that_never_show_up_are_forgotten() -> None:
    scheduler = pool()
    groups = {f"org{i}/": 1000 * i for i in range(500)}
    seeds = groups | {f"user{i}": 1000 * i for i in range(500)} | {f"org{i}/user": 1000 * i for i in range(500)}
    scheduler.seed(Balances(seeds, groups))
    for i in range(60):
        submit(scheduler, f"busy{i % 2}")
        grant = scheduler.pick()
        assert grant is not None
        scheduler.finish(grant.ticket)
        scheduler.check_integrity()
    snapshot = scheduler.snapshot()
    assert len(snapshot.tenants) + len(snapshot.groups) <= 2


def test_seeds_come_first() -> None:
    scheduler = pool()
    submit(scheduler, "a")
    with pytest.raises(LawError, match="expected an empty pool"):
        scheduler.seed(Balances())


def test_a_pool_with_classes_does_not_move() -> None:
    scheduler = pool(parse_policy("priority:3"))
    with pytest.raises(LawError, match="policy priority:3 has classes"):
        scheduler.seed(Balances())
    with pytest.raises(LawError, match="policy priority:3 has classes"):
        scheduler.export()


def running(scheduler: Scheduler, tenant: str, n_in: int, produced: int, worker: str = "w", **more: Any) -> Ticket:
    ticket = Ticket(tenant, tenant, n_in, 50, predicted=produced, produced=produced, **more)
    scheduler.resume(ticket, worker)
    scheduler.check_integrity()
    return ticket


def test_what_runs_takes_its_room_whether_it_fits_or_not() -> None:
    scheduler = pool(slots=1, tokens=100)
    tickets = [running(scheduler, "a", 80, 10) for _ in range(2)]
    submit(scheduler, "b")
    assert scheduler.pick() is None
    assert scheduler.bound() == 2 * 180, "M is what was in flight"
    scheduler.finish(tickets[0])
    assert scheduler.pick() is None
    scheduler.cancel(tickets[1])
    assert scheduler.pick() is not None
    assert [ticket.charged for ticket in tickets] == [100_000, 100_000]


def test_what_runs_can_be_requeued() -> None:
    scheduler = pool()
    scheduler.seed(Balances({"a": 7000}))
    ticket = running(scheduler, "a", 20, 3)
    later = submit(scheduler, "a")
    scheduler.requeue(ticket)
    scheduler.check_integrity()
    assert counters(scheduler) == {"a": 7.0}
    assert [grant.ticket for grant in iter(scheduler.pick, None)] == [ticket, later]


def test_what_runs_must_be_new_and_on_a_worker_of_the_room() -> None:
    scheduler = pool()
    ticket = submit(scheduler, "a")
    with pytest.raises(LawError, match="a is waiting; expected new"):
        scheduler.resume(ticket, "w")
    with pytest.raises(LawError, match="ticket b runs on 'gone'; expected one of w"):
        scheduler.resume(Ticket("b", "b", 1, 1), "gone")
    scheduler.check_integrity()


def test_adapters_of_what_runs_are_held_beyond_the_slots_until_they_are_idle() -> None:
    room = AdapterRoom([Worker("w", 8, 1000)], {"w": 1})
    scheduler = Scheduler(Vtc(), Weighted(), room, residency=room)
    tickets = [running(scheduler, "a", 10, 1, adapter=f"lora{i}") for i in range(3)]
    assert room.adapters("w") == ["lora0", "lora1", "lora2"]
    for ticket, left in zip(tickets, (["lora1", "lora2"], ["lora2"], ["lora2"]), strict=True):
        scheduler.finish(ticket)
        scheduler.check_integrity()
        assert room.adapters("w") == left
