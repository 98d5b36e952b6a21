"""The TTFT objective: what cannot start in time is turned away, and nothing else is for long."""

from __future__ import annotations

import pytest

from fairness import NoPrediction, Objective, Scheduler, Ticket, Weighted, Worker, WorkerRoom, parse_policy


def late(objective_s: float, slots: int = 1) -> tuple[Scheduler, Objective]:
    objective = Objective(objective_s)
    room = WorkerRoom([Worker("w", slots, 100)])
    scheduler = Scheduler(parse_policy("vtc"), Weighted(), room, predictor=NoPrediction(), objective=objective)
    return scheduler, objective


def submit(scheduler: Scheduler, now: float = 0.0, *, streams: bool = True) -> Ticket:
    ticket = Ticket("t", "a", 10, 20, streams=streams)
    assert scheduler.submit(ticket, now) is None
    return ticket


def refused(scheduler: Scheduler, now: float, *, streams: bool = True) -> bool:
    """Is one more turned away? Where it is not, it leaves again."""
    ticket = Ticket("t", "b", 10, 20, streams=streams)
    refusal = scheduler.submit(ticket, now)
    if refusal is None:
        scheduler.cancel(ticket)
    return refusal is not None


def serve(scheduler: Scheduler, now: float, first_token_s: float) -> float:
    """A ticket that waits has its turn, and its first token after so long, with which it ends. Returns when."""
    grant = scheduler.pick(now)
    assert grant is not None
    assert scheduler.pick(now) is None
    scheduler.charge(grant.ticket, 1, now + first_token_s)
    scheduler.finish(grant.ticket)
    return now + first_token_s


def test_what_cannot_start_in_time_is_turned_away_at_once() -> None:
    scheduler, objective = late(10.0)
    for _ in range(4):
        submit(scheduler)
    for now in range(60):
        grant = scheduler.pick(float(now))
        assert grant is not None
        scheduler.charge(grant.ticket, 1, now + 0.5)
        scheduler.finish(grant.ticket)
        submit(scheduler)
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
    submit(scheduler)
    submit(scheduler)
    assert scheduler.next_deadline() == 3.0
    assert len(scheduler.expire(3.0)) == 2


def test_an_answer_that_comes_whole_tells_nothing_of_first_tokens() -> None:
    """It is charged once, at its end: its whole time is no time to a first token."""
    scheduler, objective = late(1.0)
    now = 0.0
    for _ in range(50):
        submit(scheduler, now, streams=False)
        now = serve(scheduler, now, 10.0)
    assert objective.first_token_s == 0.0
    assert not refused(scheduler, now)


def slow_once(slots: int = 2) -> tuple[Scheduler, Objective, float]:
    """A pool whose first tokens were late by an objective of one second. Nothing waits or runs."""
    scheduler, objective = late(1.0, slots)
    now = 0.0
    for _ in range(20):
        submit(scheduler, now)
        now = serve(scheduler, now, 5.0)
    assert objective.first_token_s > 1.0
    return scheduler, objective, now


def test_a_pool_that_was_slow_is_asked_by_one_request_at_a_time_until_it_is_not() -> None:
    scheduler, objective, now = slow_once()
    asked = 0
    while objective.first_token_s > 1.0:
        asked += 1
        assert asked < 40
        ticket = submit(scheduler, now)
        assert ticket.deadline == now + 1.0, "it may wait as long as the objective allows"
        assert refused(scheduler, now), "one is before it"
        assert scheduler.pick(now) is not None
        assert refused(scheduler, now), "its first token is to come, and will tell"
        scheduler.charge(ticket, 1, now + 0.1)
        scheduler.finish(ticket)
        now += 0.1
    submit(scheduler, now)
    assert not refused(scheduler, now)


def test_who_asks_a_slow_pool_and_ends_without_a_token_leaves_it_open_to_the_next() -> None:
    scheduler, _, now = slow_once()
    for end in (scheduler.finish, scheduler.cancel):
        ticket = submit(scheduler, now)
        assert scheduler.pick(now) is not None
        assert refused(scheduler, now)
        end(ticket)
        assert not refused(scheduler, now)


def test_an_answer_that_comes_whole_is_not_waited_for_as_if_it_would_tell() -> None:
    scheduler, _, now = slow_once()
    submit(scheduler, now, streams=False)
    assert scheduler.pick(now) is not None
    assert not refused(scheduler, now)


def test_an_interval_that_was_long_is_learned_anew_though_nobody_waits_behind_the_head() -> None:
    """Whoever would wait there is refused: were only turns counted that leave others waiting, it would stay long."""
    scheduler, objective = late(1.0)
    objective.interval_s = 5.0
    running, now = submit(scheduler), 0.0
    assert scheduler.pick(now) is not None
    for _ in range(40):
        waiting = submit(scheduler, now)
        assert scheduler.pick(now) is None
        now += 0.1
        scheduler.charge(running, 1, now)
        scheduler.finish(running)
        assert scheduler.pick(now) is not None
        running = waiting
    assert objective.interval_s == pytest.approx(0.1, abs=0.1)
    submit(scheduler, now)
    assert not refused(scheduler, now)


def test_a_queue_that_everybody_left_is_not_taken_for_a_long_turn() -> None:
    scheduler, objective = late(1.0)
    served, left = submit(scheduler), submit(scheduler)
    assert scheduler.pick(0.0) is not None
    scheduler.cancel(left)
    scheduler.finish(served)
    assert scheduler.pick(0.1) is None
    submit(scheduler, 1000.0)
    assert scheduler.pick(1000.0) is not None
    assert objective.interval_s == 0.0


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_an_objective_must_be_positive(seconds: float) -> None:
    with pytest.raises(ValueError, match="expected seconds above 0"):
        Objective(seconds)
