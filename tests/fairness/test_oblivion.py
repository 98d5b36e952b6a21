"""No state is held for tenants that are gone; that it changes no decision is in `test_law`."""

from __future__ import annotations

import random

import pytest

from fairness import Scheduler, Ticket, Weighted, Worker, WorkerRoom
from fairness.policies import Policy, Vtc
from fairness.policies.fcfs import Fcfs
from fairness.policies.lcf import Lcf


def pool(policy: Policy) -> Scheduler:
    return Scheduler(policy, Weighted(), WorkerRoom([Worker("w", 4, 1000)]))


def serve(scheduler: Scheduler) -> None:
    grant = scheduler.pick()
    assert grant is not None
    scheduler.charge(grant.ticket, 10)
    scheduler.finish(grant.ticket)


def remembered(scheduler: Scheduler) -> int:
    snapshot = scheduler.snapshot()
    return len(snapshot.tenants) + len(snapshot.groups)


@pytest.mark.parametrize("policy", [Vtc, Fcfs])
def test_tenants_that_come_one_by_one_are_forgotten(policy: type[Policy]) -> None:
    scheduler = pool(policy())
    for i in range(2000):
        scheduler.submit(Ticket("t", f"user{i}", 10, 10), 0.0)
        serve(scheduler)
    assert remembered(scheduler) <= 1


@pytest.mark.parametrize("path", ["user{}", "org{}/user{}", "org{}/team{}/user{}"])
def test_tenants_that_come_together_are_forgotten_as_the_pool_goes_on(path: str) -> None:
    scheduler = pool(Vtc())
    chance = random.Random(3)
    for _ in range(4000):
        ids = [chance.randrange(1000) for _ in range(3)]
        scheduler.submit(Ticket("t", path.format(*ids), chance.randint(1, 50), 10), 0.0)
        while scheduler.queue_length() > 5:
            serve(scheduler)
    assert remembered(scheduler) < 100
    while scheduler.queue_length():
        serve(scheduler)
    scheduler.check_integrity()


def test_cancelled_requests_leave_nothing_behind() -> None:
    scheduler = pool(Vtc())
    scheduler.submit(Ticket("t", "busy", 10, 10), 0.0)
    for i in range(2000):
        ticket = Ticket("t", f"user{i % 7}", 10, 10, deadline=1e9)
        scheduler.submit(ticket, 0.0)
        scheduler.cancel(ticket)
    assert remembered(scheduler) == 1
    assert len(scheduler._queue._deadlines) < 100
    assert all(len(group.order) + len(group.resting) < 100 for group in scheduler._forest.groups())


def test_a_policy_without_lift_must_remember() -> None:
    """Control: what LCF hoards for those that are gone cannot be forgotten without changing its decisions."""
    scheduler = pool(Lcf())
    for i in range(50):
        scheduler.submit(Ticket("t", f"user{i}", 10, 10), 0.0)
        serve(scheduler)
    assert remembered(scheduler) == 50
