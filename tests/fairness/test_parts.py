"""The small parts: policies by name, the sliding window, predictors, and what the scheduler refuses."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairness import (
    Ewma,
    LastK,
    LawError,
    MaxTokens,
    NoPrediction,
    Predictor,
    Quantile,
    Scheduler,
    SlidingWindow,
    State,
    Ticket,
    Weighted,
    Worker,
    WorkerRoom,
    parse_policy,
    parse_predictor,
)
from fairness.policies import Vtc


def finished(tenant: str, produced: int) -> Ticket:
    return Ticket("t", tenant, 1, 1000, produced=produced)


# -- policies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["vtc", "fcfs", "lcf", "rr", "rpm:20", "drr:500", "priority:16", "vtc:slack=40"])
def test_a_policy_is_called_what_it_was_asked_for(spec: str) -> None:
    assert parse_policy(spec).spec == spec


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("wfq", "expected one of vtc, fcfs, lcf, rr, vtc:slack=S, rpm:LIMIT, drr:QUANTUM, priority:AGING"),
        ("vtc:3", "expected one of"),
        ("rpm", "rpm:LIMIT with a whole number"),
        ("rpm:0", "rpm:LIMIT"),
        ("rpm:1.5", "rpm:LIMIT"),
        ("drr:many", "drr:QUANTUM"),
        ("priority:-1", "priority:AGING"),
        ("vtc:slack=wide", "vtc:slack=S"),
        ("vtc:slack=-1", "vtc:slack=S"),
        ("vtc:slack=inf", "vtc:slack=S"),
    ],
)
def test_an_unknown_policy_names_the_accepted_forms(spec: str, expected: str) -> None:
    with pytest.raises(ValueError, match=r"^policy") as refused:
        parse_policy(spec)
    assert expected in str(refused.value)
    assert repr(spec) in str(refused.value)


# -- the sliding window --------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 30)), max_size=60), st.integers(1, 4))
def test_a_window_never_admits_more_than_its_limit_and_never_less(steps: list[tuple[str, float]], limit: int) -> None:
    window = SlidingWindow(limit, 10.0)
    admitted: dict[str, list[float]] = {"a": [], "b": []}
    now = 0.0
    for key, step in steps:
        now += step
        recent = [t for t in admitted[key] if t > now - 10.0]
        assert window.remaining(key, now) == limit - len(recent)
        wait = window.admit(key, now)
        if wait is None:
            admitted[key].append(now)
        else:
            assert wait == pytest.approx(recent[0] + 10.0 - now)
        assert (wait is None) == (len(recent) < limit)


def test_rpm_turns_away_with_the_time_to_wait() -> None:
    scheduler = Scheduler(parse_policy("rpm:1"), Weighted(), WorkerRoom([Worker("w", 1, 100)]))
    assert scheduler.submit(Ticket("1", "a", 1, 1), 5.0) is None
    refusal = scheduler.submit(Ticket("2", "a", 1, 1), 25.0)
    assert refusal is not None
    assert (refusal.reason, refusal.retry_after) == ("rate_limit", 40.0)
    assert scheduler.submit(Ticket("3", "b", 1, 1), 25.0) is None
    assert scheduler.submit(Ticket("4", "a", 1, 1), 65.0) is None


# -- predictors ----------------------------------------------------------------------------------------------------


def test_predictors_follow_their_formulas() -> None:
    ewma, mean, quantile = Ewma(), LastK(3), Quantile(0.5, 4)
    for produced in (100, 10, 20, 60):
        for predictor in (ewma, mean, quantile):
            predictor.observe(finished("a", produced))
    asked = Ticket("t", "a", 1, 77)
    assert ewma.predict(asked) == round((((100 / 5) * 4 + 10) / 5 * 4 + 20) / 5 * 4 / 5 + 60 / 5)
    assert mean.predict(asked) == 30
    assert quantile.predict(asked) == 20
    assert MaxTokens().predict(asked) == 77
    assert NoPrediction().predict(asked) == 0
    for predictor in (ewma, mean, quantile):
        assert predictor.predict(Ticket("t", "unknown", 1, 77)) == 0


@pytest.mark.parametrize("make", [lambda: Ewma(keep=2), lambda: LastK(keep=2), lambda: Quantile(keep=2)])
def test_a_predictor_remembers_the_tenants_seen_last(make: type[Ewma]) -> None:
    predictor: Predictor = make()
    for tenant in ("a", "b", "a", "c"):
        predictor.observe(finished(tenant, 50))
    assert predictor.predict(Ticket("t", "b", 1, 99)) == 0
    assert predictor.predict(Ticket("t", "a", 1, 99)) > 0


@pytest.mark.parametrize("spec", ["none", "max_tokens", "ewma", "mean:5", "quantile:0.9"])
def test_a_predictor_by_name(spec: str) -> None:
    assert parse_predictor(spec).predict(Ticket("t", "new", 1, 9)) == (9 if spec == "max_tokens" else 0)


@pytest.mark.parametrize("spec", ["", "mean", "mean:0", "mean:x", "quantile:0", "quantile:2", "quantile:", "ewma:3"])
def test_an_unknown_predictor_names_the_accepted_forms(spec: str) -> None:
    with pytest.raises(ValueError, match="expected none, max_tokens, ewma, mean:K"):
        parse_predictor(spec)


# -- refusals and protocol -----------------------------------------------------------------------------------------


def small(**limits: float) -> Scheduler:
    return Scheduler(Vtc(), Weighted(), WorkerRoom([Worker("w", 1, 100)]), **limits)  # type: ignore[arg-type]


def test_a_request_larger_than_the_largest_worker_is_refused() -> None:
    refusal = small().submit(Ticket("t", "a", 100, 1), 0.0)
    assert refusal is not None
    assert refusal.reason == "too_large"
    assert "100 tokens" in refusal.message
    assert small().submit(Ticket("t", "a", 99, 1), 0.0) is None


def test_full_queues_are_refused_by_name() -> None:
    scheduler = small(max_waiting=3, max_waiting_per_tenant=2)
    tickets = [Ticket(str(i), "a" if i < 3 else "b", 1, 1) for i in range(6)]
    refusals = [scheduler.submit(ticket, 0.0) for ticket in tickets]
    reasons = [refusal.reason if refusal else "" for refusal in refusals]
    assert reasons == ["", "", "tenant_queue_full", "", "pool_queue_full", "pool_queue_full"]
    assert scheduler.queue_length("a") == 2
    assert scheduler.queue_length() == 3


def test_a_tenant_can_have_its_own_limit() -> None:
    room = WorkerRoom([Worker("w", 1, 100)])
    scheduler = Scheduler(Vtc(), Weighted(), room, max_waiting_per_tenant=1, tenant_bounds={"big": 2})
    accepted = [scheduler.submit(Ticket(str(i), "big", 1, 1), 0.0) is None for i in range(3)]
    assert accepted == [True, True, False]


@pytest.mark.parametrize("weight", [0.0, -1.0, math.inf, math.nan])
def test_a_weight_must_be_positive(weight: float) -> None:
    room = WorkerRoom([Worker("w", 1, 100)])
    with pytest.raises(ValueError, match="expected a finite number above 0"):
        Scheduler(Vtc(), Weighted(), room, weights={"a": weight})
    with pytest.raises(ValueError, match="expected a finite number above 0"):
        small().set_weight("a", weight)


@pytest.mark.parametrize("call", ["charge", "correct", "finish", "requeue"])
def test_what_runs_not_cannot_be_reported(call: str) -> None:
    scheduler = small()
    ticket = Ticket("t", "a", 1, 1)
    arguments = (1,) if call in ("charge", "correct") else ()
    with pytest.raises(LawError, match="t is new; expected running"):
        getattr(scheduler, call)(ticket, *arguments)
    scheduler.submit(ticket, 0.0)
    with pytest.raises(LawError, match="t is waiting; expected running"):
        getattr(scheduler, call)(ticket, *arguments)
    scheduler.cancel(ticket)
    with pytest.raises(LawError, match="cancelled"):
        scheduler.cancel(ticket)
    with pytest.raises(LawError, match="cancelled; expected new"):
        scheduler.submit(ticket, 0.0)


def test_a_requeued_ticket_still_expires() -> None:
    scheduler = small()
    ticket = Ticket("t", "a", 1, 1, deadline=5.0)
    scheduler.submit(ticket, 0.0)
    assert scheduler.pick() is not None
    assert scheduler.expire(6.0) == []
    scheduler.requeue(ticket)
    assert scheduler.next_deadline() == 5.0
    assert scheduler.expire(6.0) == [ticket]
    assert ticket.state is State.CANCELLED


def test_integrity_is_not_blind() -> None:
    """Control: a counter, a room and a ledger that are wrong by one are noticed."""
    scheduler = small()
    scheduler.submit(Ticket("t", "a", 5, 5), 0.0)
    grant = scheduler.pick()
    assert grant is not None
    scheduler.check_integrity()
    (share,) = scheduler._forest.shares()
    share.counter += 1
    with pytest.raises(LawError, match="a: its counter is not lifts plus charges"):
        scheduler.check_integrity()
    share.counter -= 1
    grant.ticket.reserved += 1
    with pytest.raises(LawError, match="worker w holds room"):
        scheduler.check_integrity()
    grant.ticket.reserved -= 1
    scheduler._ledger._exposure.held += 1
    with pytest.raises(LawError, match="6 tokens are said to be in flight, 5 are"):
        scheduler.check_integrity()
