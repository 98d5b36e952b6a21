"""Strict classes with aging, and deficit round robin."""

from __future__ import annotations

import random

from fairness import (
    Auditor,
    Crossing,
    MaxTokens,
    Scheduler,
    Ticket,
    Weighted,
    Worker,
    WorkerRoom,
    parse_policy,
)


def pool(policy: str, tokens: int = 200, slots: int = 4) -> Scheduler:
    return Scheduler(parse_policy(policy), Weighted(), WorkerRoom([Worker("w", slots, tokens)]), predictor=MaxTokens())


def serve(scheduler: Scheduler, now: float | None = None) -> Ticket:
    grant = scheduler.pick(now)
    assert grant is not None
    scheduler.charge(grant.ticket, grant.ticket.max_tokens, now)
    scheduler.finish(grant.ticket)
    scheduler.check_integrity()
    return grant.ticket


def submit(
    scheduler: Scheduler, tenant: str, priority: int = 0, count: int = 1, n_in: int = 10, n_out: int = 20
) -> None:
    for i in range(count):
        assert scheduler.submit(Ticket(f"{tenant}{i}", tenant, n_in, n_out, priority=priority), 0.0) is None


# -- classes -------------------------------------------------------------------------------------------------------


def test_the_first_class_goes_first_and_the_last_does_not_starve() -> None:
    scheduler = pool("priority:5")
    for priority, tenant in enumerate(("gold", "silver", "batch")):
        submit(scheduler, tenant, priority, 60)
    served = [serve(scheduler).priority for _ in range(60)]
    assert served[:5] == [0] * 5
    assert served.count(0) > 30
    for priority in (1, 2):
        turns = [i for i, other in enumerate(served) if other == priority]
        assert max(b - a for a, b in zip([-1, *turns], turns, strict=False)) <= 5 + 2


def test_without_aging_pressure_classes_are_strict() -> None:
    scheduler = pool("priority:1000")
    submit(scheduler, "low", 3, 10)
    submit(scheduler, "high", 1, 10)
    assert [serve(scheduler).priority for _ in range(20)] == [1] * 10 + [3] * 10


def test_within_a_class_the_queue_is_fair_and_the_bound_holds() -> None:
    alarms: list[Crossing] = []
    auditor = Auditor(alarms.append, lambda: 0.0)
    room = WorkerRoom([Worker("w", 4, 200)])
    scheduler = Scheduler(parse_policy("priority:3"), Weighted(), room, predictor=MaxTokens(), auditor=auditor)
    chance = random.Random(4)
    for tenant in ("a", "b", "c"):
        for priority in (0, 1):
            for i in range(40):
                ticket = Ticket(f"{tenant}{i}", tenant, chance.randint(1, 60), chance.randint(1, 60), priority=priority)
                scheduler.submit(ticket, 0.0)
    received: dict[tuple[int, str], int] = {}
    for _ in range(120):
        ticket = serve(scheduler)
        key = (ticket.priority, ticket.tenant)
        received[key] = received.get(key, 0) + ticket.input_tokens + 2 * ticket.max_tokens
        assert auditor.gap() == scheduler.gap() <= scheduler.bound()
    assert alarms == []
    assert received[0, "a"] > 2 * scheduler.bound() + received[1, "a"], "classes are not compared with each other"
    for priority in (0, 1):
        shares = [service for (other, _), service in received.items() if other == priority]
        assert max(shares) - min(shares) <= 2 * scheduler.bound()


def test_the_auditor_compares_nobody_with_another_class_in_a_group_either() -> None:
    """A group of the same name in each class: what one is ahead of the other is no gap."""
    alarms: list[Crossing] = []
    auditor = Auditor(alarms.append, lambda: 0.0)
    room = WorkerRoom([Worker("w", 1, 100)])
    scheduler = Scheduler(parse_policy("priority:1000"), Weighted(), room, predictor=MaxTokens(), auditor=auditor)
    submit(scheduler, "acme/a", 1, 30)
    for _ in range(20):
        serve(scheduler)
    submit(scheduler, "acme/b", 2)
    assert (auditor.gap(), scheduler.gap(), alarms) == (0.0, 0.0, [])


def test_a_snapshot_counts_a_tenant_over_its_classes() -> None:
    scheduler = pool("priority:3", slots=1)
    for priority in (0, 2):
        submit(scheduler, "a", priority, 2)
    assert scheduler.pick() is not None
    state = scheduler.snapshot().tenants["a"]
    assert (state.waiting, state.running, state.counter) == (3, 1, 50.0)
    assert scheduler.queue_length("a") == 3


def test_other_policies_know_no_classes() -> None:
    scheduler = pool("vtc")
    submit(scheduler, "low", 9)
    submit(scheduler, "high", 0)
    assert [serve(scheduler).tenant for _ in range(2)] == ["low", "high"]


# -- deficit round robin -------------------------------------------------------------------------------------------


def test_drr_shares_equally_whatever_the_lengths_and_within_its_wider_bound() -> None:
    scheduler = pool("drr:300")
    received = {"short": 0, "long": 0}
    submit(scheduler, "short", count=400, n_in=5, n_out=5)
    submit(scheduler, "long", count=60, n_in=50, n_out=100)
    for _ in range(300):
        ticket = serve(scheduler)
        received[ticket.tenant] += ticket.input_tokens + 2 * ticket.max_tokens
        assert scheduler.gap() <= scheduler.bound() == 400 + 300
        assert abs(received["short"] - received["long"]) <= 2 * scheduler.bound()


def test_drr_takes_turns_in_arrival_order_within_a_round() -> None:
    """Control for the quantum: VTC looks at every unit, DRR only at whole rounds."""
    for policy, expected in (("vtc", "abab"), ("drr:1000", "aabb")):
        scheduler = pool(policy)
        for tenant in "aabb":
            submit(scheduler, tenant)
        assert "".join(serve(scheduler).tenant for _ in range(4)) == expected
