"""Strict classes with aging, deficit round robin, and the TTFT objective."""

from __future__ import annotations

import random

import pytest

from fairness import (
    Auditor,
    Crossing,
    MaxTokens,
    NoPrediction,
    Objective,
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


# -- the objective -------------------------------------------------------------------------------------------------


def late(objective_s: float) -> tuple[Scheduler, Objective]:
    objective = Objective(objective_s)
    room = WorkerRoom([Worker("w", 1, 100)])
    scheduler = Scheduler(parse_policy("vtc"), Weighted(), room, predictor=NoPrediction(), objective=objective)
    return scheduler, objective


def test_what_cannot_start_in_time_is_turned_away_at_once() -> None:
    scheduler, objective = late(10.0)
    submit(scheduler, "a", count=4)
    for now in range(60):
        grant = scheduler.pick(float(now))
        assert grant is not None
        scheduler.charge(grant.ticket, 1, now + 0.5)
        scheduler.finish(grant.ticket)
        submit(scheduler, "a")
    assert objective.interval_s == pytest.approx(1.0, abs=0.05)
    assert objective.first_token_s == pytest.approx(0.5, abs=0.05)
    accepted = 0
    while (refusal := scheduler.submit(Ticket("t", "a", 10, 20), 60.0)) is None:
        accepted += 1
        assert accepted < 20
    assert 5 <= accepted + 4 <= 10
    assert refusal.reason == "ttft_objective"
    assert refusal.retry_after is not None
    assert refusal.retry_after > 0
    assert objective.turned_away == 1
    assert scheduler.submit(Ticket("t", "other", 10, 20), 60.0) is None, "its turn comes sooner"


def test_what_was_admitted_and_can_no_longer_start_in_time_expires() -> None:
    scheduler, _ = late(3.0)
    submit(scheduler, "a", count=2)
    assert scheduler.next_deadline() == 3.0
    assert len(scheduler.expire(3.0)) == 2


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_an_objective_must_be_positive(seconds: float) -> None:
    with pytest.raises(ValueError, match="expected seconds above 0"):
        Objective(seconds)
