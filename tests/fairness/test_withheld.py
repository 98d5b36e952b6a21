"""Charges may come late: the bound needs a ticket's output only in the step that gives its room back.

So an answer that nobody sees before its end is charged when it ends. Until then its ticket holds the room that its
output was promised; whatever is charged late is charged to one that still held room for it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairness import (
    Auditor,
    Crossing,
    LawError,
    MaxTokens,
    NoPrediction,
    Predictor,
    Scheduler,
    State,
    Ticket,
    Weighted,
    Worker,
    WorkerRoom,
)
from fairness.policies import Vtc

from .test_law import operations, settings
from .world import KINDS, UNUSUAL, Setting, World, random_ops, random_setting


def audited(*parts: object, **named: object) -> Scheduler:
    """A scheduler whose auditor fails the test."""
    return Scheduler(*parts, auditor=Auditor(_alarmed, lambda: 0.0), **named)  # type: ignore[arg-type]


def _alarmed(crossing: Crossing) -> None:
    raise AssertionError(f"the bound was crossed: {crossing}")


@dataclass
class Withheld(World):
    """A world in which the law hears of a ticket's output when that ends, or is cancelled, and not before."""

    made: dict[Ticket, int] = field(default_factory=dict)

    def do_charge(self, a: int, b: int) -> None:
        if ticket := self.one(State.RUNNING, a):
            self.made[ticket] = self.made.get(ticket, 0) + b % 6

    def do_run(self, a: int, b: int) -> None:
        for _ in range(1 + b % 6):
            for ticket in self.all(State.RUNNING):
                self.made[ticket] = self.made.get(ticket, 0) + 1
                if self.made[ticket] >= ticket.max_tokens:
                    self._end(ticket, self.scheduler.finish)

    def do_requeue(self, a: int, b: int) -> None:
        if ticket := self.one(State.RUNNING, a):
            self.made.pop(ticket, None)
        super().do_requeue(a, b)

    def _end(self, ticket: Ticket, how: Callable[[Ticket], None]) -> None:
        self._charge(ticket, self.made.pop(ticket, 0))
        super()._end(ticket, how)


@given(settings, operations((*KINDS, *UNUSUAL)))
def test_the_bound_holds_where_all_charges_are_withheld(setting: Setting, ops: list[tuple[str, int, int]]) -> None:
    """Every promise of the law, after every step, whatever is predicted; and no auditor raises an alarm."""
    Withheld(setting._replace(scheduler=audited)).play(ops)


@given(st.integers(0, 2**32))
def test_where_room_is_held_for_all_output_withheld_charges_change_nothing(seed: int) -> None:
    """The same turns, the same counters after each step, the same bound: the configured one."""
    chance = random.Random(seed)
    workers = tuple((chance.randint(1, 8), chance.randint(80, 160)) for _ in range(chance.randint(1, 3)))
    setting = random_setting(chance, audited)._replace(predictor=MaxTokens, workers=workers)
    kinds = [kind for kind in KINDS if kind not in ("charge", "correct", "requeue")]
    eager, late = World(setting), Withheld(setting)
    bound = eager.scheduler.bound()
    for op in random_ops(chance, 80, kinds):
        eager.play([op])
        late.play([op])
        assert late.turns == eager.turns
        assert late.scheduler.snapshot() == eager.scheduler.snapshot()
        assert late.scheduler.bound() == pytest.approx(bound)


@pytest.mark.parametrize(("predictor", "planned"), [(MaxTokens, True), (NoPrediction, False)])
def test_where_room_is_not_held_for_output_the_bound_grows_by_what_was_measured(
    predictor: Callable[[], Predictor], planned: bool
) -> None:
    """64 requests of 99 tokens, charged when they end. Room for ten runs ten, and the plan holds; room that is not held
    runs them all, and what they then turn out to be is more than was planned, and counted."""
    room = WorkerRoom([Worker("w", 64, 1000)])
    scheduler = audited(Vtc(), Weighted(), room, predictor=predictor())
    before = scheduler.bound()
    for number in range(128):
        assert scheduler.submit(Ticket(f"burst-{number}", "burst", 1, 99), 0.0) is None
    running = [grant.ticket for grant in iter(scheduler.pick, None)]
    assert scheduler.submit(Ticket("other", "other", 1, 99), 0.0) is None
    for ticket in running:
        scheduler.charge(ticket, 99)
        scheduler.finish(ticket)
    assert (scheduler.gap() <= before) is planned
    assert scheduler.gap() <= scheduler.bound()


def test_nothing_is_charged_to_a_ticket_whose_room_was_given_back() -> None:
    """Room is released in the step that settles, and no charge comes after it."""
    room = WorkerRoom([Worker("w", 4, 1000)])
    scheduler = audited(Vtc(), Weighted(), room, predictor=MaxTokens())
    ticket = Ticket("t", "a", 1, 99)
    scheduler.submit(ticket, 0.0)
    scheduler.pick()
    assert room.workers["w"].reserved == 100
    scheduler.charge(ticket, 50)
    assert room.workers["w"].reserved == 100, "what it may still produce is charged to it later"
    scheduler.finish(ticket)
    assert room.workers["w"].reserved == 0
    before = scheduler.snapshot()
    with pytest.raises(LawError):
        scheduler.charge(ticket, 99)
    assert scheduler.snapshot() == before
