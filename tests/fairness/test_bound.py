"""The bound where it is hard to keep: reached, with controls that must break it, and when plans go wrong."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from fairness import Auditor, Crossing, MaxTokens, NoPrediction, Scheduler, Ticket, Weighted, Worker, WorkerRoom
from fairness.policies import Policy, Vtc
from fairness.policies.fcfs import Fcfs
from fairness.policies.lcf import Lcf

from .world import KINDS, Setting, World, random_ops, random_setting


class KnowsLengths(WorkerRoom):
    """Reserves true lengths though nothing is charged ahead: what a simulated engine can do."""

    def place(self, ticket: Ticket) -> str | None:
        ticket.predicted = ticket.max_tokens
        worker = super().place(ticket)
        ticket.predicted = 0
        return worker

    def grow(self, ticket: Ticket, tokens: int) -> int:
        return 0


def pool(policy: Policy, tokens: int = 1000, cost: Weighted | None = None, workers: int = 1) -> Scheduler:
    """Predictions are upper limits, so that every token is reserved. An auditor listens in."""
    room = WorkerRoom([Worker(f"w{i}", 64, tokens) for i in range(workers)])
    auditor = Auditor(alarmed, lambda: 0.0) if isinstance(policy, Vtc) else None
    return Scheduler(policy, cost or Weighted(), room, predictor=MaxTokens(), auditor=auditor)


def alarmed(crossing: Crossing) -> None:
    raise AssertionError(f"a false alarm: {crossing}")


def submit(scheduler: Scheduler, tenant: str, n_in: int, n_out: int, count: int = 1) -> list[Ticket]:
    tickets = [Ticket(f"{tenant}{i}", tenant, n_in, n_out) for i in range(count)]
    assert all(scheduler.submit(ticket, 0.0) is None for ticket in tickets)
    return tickets


def serve(scheduler: Scheduler, turns: int) -> None:
    """One after the other, to its end."""
    for _ in range(turns):
        grant = scheduler.pick()
        assert grant is not None
        scheduler.charge(grant.ticket, grant.ticket.max_tokens)
        scheduler.finish(grant.ticket)


def test_the_bound_is_nearly_reached() -> None:
    """A whole pool of tiny inputs that all run on: their tenant gains the output of the whole pool in one turn."""
    scheduler = Scheduler(Vtc(), Weighted(), KnowsLengths([Worker("w", 64, 1000)]))
    submit(scheduler, "burst", 1, 99, 11)
    running = [grant.ticket for grant in iter(scheduler.pick, None)]
    submit(scheduler, "other", 1, 99)
    for ticket in running:
        scheduler.charge(ticket, 99)
    assert len(running) == 10
    assert scheduler.gap() == 10 * 99 * 2
    assert scheduler.bound() == 1000 * 2


@pytest.mark.parametrize(("policy", "holds"), [(Vtc, True), (Lcf, False), (Fcfs, False)])
def test_a_late_burst_keeps_the_bound_under_vtc_alone(policy: Callable[[], Policy], holds: bool) -> None:
    """DESIGN section 8 in small: `early` is alone for long, then `late` sends a burst and both are overloaded."""
    scheduler = pool(policy(), tokens=100)
    received = {"early": 0.0, "late": 0.0}
    submit(scheduler, "early", 10, 20, 40)
    serve(scheduler, 40)
    submit(scheduler, "late", 10, 20, 80)
    submit(scheduler, "early", 10, 20, 80)
    widest = 0.0
    for _ in range(80):
        grant = scheduler.pick()
        assert grant is not None
        scheduler.charge(grant.ticket, 20)
        scheduler.finish(grant.ticket)
        received[grant.ticket.tenant] += 10 + 2 * 20
        widest = max(widest, abs(received["early"] - received["late"]))
    assert (widest <= 2 * scheduler.bound()) is holds


def test_output_beyond_its_prediction_is_counted_into_the_bound() -> None:
    scheduler = pool(Vtc(), tokens=200)
    scheduler.predictor = NoPrediction()
    submit(scheduler, "long", 1, 500, 100)
    submit(scheduler, "other", 190, 5, 2)
    running = [grant.ticket for grant in iter(scheduler.pick, None)]
    before = scheduler.bound()
    for ticket in running:
        scheduler.charge(ticket, 500)
    assert before < scheduler.gap() <= scheduler.bound()


def test_a_requeue_after_others_went_on_is_counted_until_it_is_made_up() -> None:
    """Its ticket was out while others were served, and comes back to its old place, far behind."""
    scheduler = pool(Vtc(), tokens=100)
    (out,) = submit(scheduler, "unlucky", 10, 20)
    assert scheduler.pick() is not None
    submit(scheduler, "other", 10, 20, 100)
    plain = scheduler.bound()
    serve(scheduler, 40)
    scheduler.requeue(out)
    assert plain < scheduler.gap() <= scheduler.bound()
    submit(scheduler, "unlucky", 10, 20, 60)
    submit(scheduler, "newcomer", 10, 20, 60)
    for _ in range(90):
        serve(scheduler, 1)
        assert scheduler.gap() <= scheduler.bound()
    assert scheduler.bound() == plain, "made up"


def test_an_immediate_requeue_costs_the_bound_nothing() -> None:
    scheduler = pool(Vtc(), tokens=100)
    submit(scheduler, "a", 10, 20, 3)
    submit(scheduler, "b", 10, 20, 3)
    serve(scheduler, 1)
    plain = scheduler.bound()
    grant = scheduler.pick()
    assert grant is not None
    scheduler.requeue(grant.ticket)
    assert scheduler.bound() == plain


def test_overestimated_inputs_are_refunded_within_the_bound() -> None:
    """Where input is dearer than output, one refund may give back what several workers reserved."""
    scheduler = pool(Vtc(), tokens=100, cost=Weighted(3.0, 1.0), workers=4)
    estimated = submit(scheduler, "estimates", 99, 1, 3)
    assert all(scheduler.pick() for _ in estimated)
    submit(scheduler, "exact", 99, 1)
    assert scheduler.pick() is not None
    submit(scheduler, "estimates", 99, 1)
    submit(scheduler, "exact", 99, 1)
    planned = scheduler.bound()
    for ticket in estimated:
        scheduler.correct(ticket, 1)
    assert planned < scheduler.gap() <= scheduler.bound()


def test_a_pool_that_shrinks_keeps_the_bound_of_what_was_running() -> None:
    scheduler = pool(Vtc())
    submit(scheduler, "a", 100, 100, 30)
    submit(scheduler, "b", 1, 1, 30)
    running = [grant.ticket for grant in iter(scheduler.pick, None)]
    assert isinstance(scheduler.room, WorkerRoom)
    scheduler.room.set_worker("w0", tokens=300)
    for ticket in running:
        scheduler.charge(ticket, ticket.max_tokens)
    assert scheduler.gap() <= scheduler.bound()


def plan_holds(seed: int) -> None:
    """Where predictions are upper limits, nothing has to be measured: the bound is the configured one."""
    chance = random.Random(seed)
    workers = tuple((chance.randint(1, 8), chance.randint(80, 160)) for _ in range(chance.randint(1, 3)))
    setting: Setting = random_setting(chance)._replace(predictor=MaxTokens, workers=workers)
    world = World(setting)
    capacity = world.room.capacity()
    rise = setting.cost.most_rise(capacity.tokens, capacity.largest, capacity.largest)
    planned = rise / min(1.0, *setting.weights)
    kinds = [kind for kind in KINDS if kind not in ("charge", "correct", "requeue")]
    for op in random_ops(chance, 80, kinds):
        world.play([op])
        assert world.scheduler.bound() == pytest.approx(planned)


def test_the_bound_is_the_configured_one_where_predictions_are_upper_limits() -> None:
    for seed in range(60):
        plan_holds(seed)


def test_a_room_that_does_not_reserve_predictions_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    place = WorkerRoom.place

    def place_without_prediction(self: WorkerRoom, ticket: Ticket) -> str | None:
        predicted, ticket.predicted = ticket.predicted, 0
        worker = place(self, ticket)
        ticket.predicted = predicted
        return worker

    monkeypatch.setattr(WorkerRoom, "place", place_without_prediction)
    with pytest.raises(AssertionError):
        test_the_bound_is_the_configured_one_where_predictions_are_upper_limits()


def test_room_that_is_lent_out_early_breaks_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control for lowered reservations: give back room before the ticket is settled."""
    grow = WorkerRoom.grow

    def shrink(self: WorkerRoom, ticket: Ticket, tokens: int) -> int:
        return grow(self, ticket, tokens - ticket.reserved + 1)

    monkeypatch.setattr(WorkerRoom, "grow", shrink)
    scheduler = pool(Vtc(), tokens=100)
    scheduler.predictor = NoPrediction()
    submit(scheduler, "a", 90, 9)
    submit(scheduler, "b", 90, 9)
    grant = scheduler.pick()
    assert grant is not None
    scheduler.charge(grant.ticket, 1)
    before = scheduler.bound()
    assert scheduler.pick() is not None
    assert scheduler.bound() > before
