"""`export` is the inverse of `seed`: another scheduler that is given it, what runs and what waits, is the same one."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given

from fairness import Balances, MaxTokens, NoPrediction, Scheduler, State, Ticket, Weighted, Worker, WorkerRoom
from fairness.policies import Vtc
from fairness.shares import Group

from .test_law import operations, settings
from .test_moving import DEEP, moved
from .world import KINDS, TREE, Setting, World, random_ops, random_setting

TREES = pytest.mark.parametrize("tenants", [("a", "b", "c", "d"), TREE, DEEP], ids=["flat", "tree", "deep"])


def successor(world: World) -> Scheduler:
    """Seeded with what the world's scheduler exports; nothing runs or waits there yet."""
    old = world.scheduler
    room = WorkerRoom([replace(worker, running=0, reserved=0) for worker in world.room.workers.values()])
    new = Scheduler(old.policy, old.cost, room, weights=world.reference.weights, predictor=old.predictor)
    new.seed(old.export())
    return new


def resume_all(world: World, new: Scheduler) -> dict[str, Ticket]:
    """What runs, in the order of dispatch."""
    alive = {ticket.id: ticket for ticket in world.all(State.RUNNING)}
    running = {job.name: moved(alive[job.name]) for job in world.reference.dispatched if job.name in alive}
    for name, ticket in running.items():
        new.resume(ticket, alive[name].worker)
    return running


def submit_all(world: World, new: Scheduler) -> None:
    for ticket in sorted(world.all(State.WAITING), key=lambda ticket: ticket.seq):
        assert new.submit(moved(ticket), world.now) is None


def counters(scheduler: Scheduler) -> dict[str, float]:
    snapshot = scheduler.snapshot()
    return {path: state.counter for path, state in (snapshot.tenants | snapshot.groups).items()}


@TREES
@given(settings, operations((*KINDS, "resize", "health")))
def test_a_seeded_scheduler_exports_what_it_was_given(
    tenants: tuple[str, ...], setting: Setting, ops: list[tuple[str, int, int]]
) -> None:
    world = World(setting._replace(tenants=tenants)).play(ops)
    exported = world.scheduler.export()
    new = successor(world)
    assert new.export() == exported
    resume_all(world, new)
    assert new.export() == exported, "what runs is not in it"
    assert counters(new) == counters(world.scheduler), "and is charged when it is resumed"
    assert all(isinstance(number, int) for numbers in exported for number in numbers.values())


# Without refunds nobody who waits is below a lift target, so nobody is lifted by the move.
WITHOUT_REFUNDS = ("submit", "fill", "pick", "pick_all", "charge", "run", "finish", "cancel")


def groups_tie(scheduler: Scheduler) -> bool:
    """Two siblings have the least counter, and one is a group: which took its last turn first is not exported."""
    for group in scheduler._forest.groups():
        waiting = [member for member in group.members.values() if member.waiting]
        first = [member for member in waiting if member.counter == min(other.counter for other in waiting)]
        if len(first) > 1 and any(isinstance(member, Group) for member in first):
            return True
    return False


def same_decisions(seed: int, tenants: tuple[str, ...]) -> int:
    """A scheduler and its successor serve all that waits, one ticket at a time. How many decisions were compared."""
    chance = random.Random(seed)
    world = World(random_setting(chance, tenants=tenants)._replace(predictor=NoPrediction))
    world.play(random_ops(chance, 60, WITHOUT_REFUNDS))
    old, new = world.scheduler, successor(world)
    twins = resume_all(world, new)
    submit_all(world, new)
    assert new.export() == old.export(), "nobody was lifted"
    for ticket in world.all(State.RUNNING):
        old.finish(ticket)
        new.finish(twins[ticket.id])
    compared = 0
    while not groups_tie(old) and (grant := old.pick()) is not None:
        other = new.pick()
        assert other is not None
        assert other.ticket.id == grant.ticket.id
        for scheduler, ticket in ((old, grant.ticket), (new, other.ticket)):
            scheduler.charge(
                ticket, 1 + chance.randrange(ticket.max_tokens) if scheduler is old else grant.ticket.produced
            )
            scheduler.finish(ticket)
        compared += 1
    return compared


@TREES
def test_the_successor_makes_the_same_decisions(tenants: tuple[str, ...]) -> None:
    assert sum(same_decisions(seed, tenants) for seed in range(60)) > 300


# -- by example ----------------------------------------------------------------------------------------------------


def pool() -> Scheduler:
    return Scheduler(Vtc(), Weighted(), WorkerRoom([Worker("w", 4, 10_000)]), predictor=MaxTokens())


def submit(scheduler: Scheduler, tenant: str, n_in: int, max_tokens: int) -> Ticket:
    ticket = Ticket(tenant, tenant, n_in, max_tokens)
    assert scheduler.submit(ticket, 0.0) is None
    return ticket


def serve(scheduler: Scheduler, tenant: str, n_in: int, n_out: int) -> None:
    ticket = submit(scheduler, tenant, n_in, n_out)
    assert scheduler.pick() is not None
    scheduler.charge(ticket, n_out)
    scheduler.finish(ticket)


def test_counters_are_net_of_what_runs() -> None:
    scheduler = Scheduler(Vtc(), Weighted(), WorkerRoom([Worker("w", 4, 1000)]))
    serve(scheduler, "a", 10, 5)
    running = submit(scheduler, "a", 10, 50)
    assert scheduler.pick() is not None
    scheduler.charge(running, 3)
    assert counters(scheduler) == {"a": 36.0}
    assert scheduler.export() == Balances({"a": 20_000}, {"": 20_000})
    other = Scheduler(Vtc(), Weighted(), WorkerRoom([Worker("w", 4, 1000)]))
    other.seed(scheduler.export())
    other.resume(moved(running), "w")
    assert counters(other) == {"a": 36.0}


def served_and_forgotten() -> Scheduler:
    """In group x, d and b come together. d runs its ticket of 10 and 10 tokens and stands at 30, b was served 100 and
    200 tokens and stands at 500. Then c comes while nobody waits, and leaves: it was lifted to b's 500, who left the
    queue last, so b is forgotten and the lift target of x, 500, stands for it."""
    scheduler = pool()
    submit(scheduler, "x/d", 10, 10)
    long = submit(scheduler, "x/b", 100, 200)
    assert [grant.ticket.tenant for grant in iter(scheduler.pick, None)] == ["x/d", "x/b"]
    scheduler.charge(long, 200)
    scheduler.finish(long)
    scheduler.cancel(submit(scheduler, "x/c", 10, 10))
    assert counters(scheduler) == {"x/": 530.0, "x/d": 30.0}
    return scheduler


def moves_and_comes_back(exported: Balances) -> float:
    """The counter at which b begins again in another scheduler, where d runs on."""
    scheduler = pool()
    scheduler.seed(exported)
    scheduler.resume(Ticket("x/d", "x/d", 10, 10, predicted=10), "w")
    submit(scheduler, "x/b", 10, 10)
    assert counters(scheduler)["x/d"] == 30
    return counters(scheduler)["x/b"]


def test_who_was_served_in_an_inner_group_does_not_begin_again_below_what_it_received() -> None:
    exported = served_and_forgotten().export()
    assert exported.lift_targets["x/"] == 500_000
    assert moves_and_comes_back(exported) == 500


def test_with_the_roots_lift_target_alone_it_would_ride_free() -> None:
    """The control: b, served 500, stands beside d as if it had been served 30."""
    exported = served_and_forgotten().export()
    assert moves_and_comes_back(exported._replace(lift_targets={"": exported.lift_targets[""]})) == 30
