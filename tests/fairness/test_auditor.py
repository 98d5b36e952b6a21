"""The auditor agrees with the gap at every step, is silent under VTC, and speaks at once where the law is broken."""

from __future__ import annotations

import random
from typing import Any

import pytest

from fairness import Auditor, Crossing, MaxTokens, Scheduler, Ticket, Weighted, Worker, WorkerRoom, parse_policy
from fairness.auditor import Siblings, Watch

from .plain import PLAIN_ONLY
from .world import KINDS, TREE, UNUSUAL, World, random_ops, random_setting


class AuditedWorld(World):
    alarms: list[Crossing]

    def __post_init__(self) -> None:
        self.alarms = []
        auditor = Auditor(self.alarms.append, lambda: self.now)
        scheduler = self.setting.scheduler
        self.setting = self.setting._replace(
            scheduler=lambda *args, **kwargs: scheduler(*args, **kwargs, auditor=auditor)
        )
        self.auditor = auditor
        super().__post_init__()

    def check(self) -> None:
        super().check()
        assert self.auditor.gap() == pytest.approx(self.scheduler.gap(), abs=1e-9)
        assert not self.alarms, self.alarms[0]


@pytest.mark.parametrize("tenants", [("a", "b", "c", "d"), TREE], ids=["flat", "tree"])
def test_it_knows_the_gap_and_is_silent_while_the_bound_holds(tenants: tuple[str, ...]) -> None:
    for seed in range(80):
        chance = random.Random(seed)
        AuditedWorld(random_setting(chance, tenants=tenants)).play(random_ops(chance, 80, (*KINDS, *UNUSUAL)))


def overload(policy: str) -> tuple[list[Crossing], Auditor, float]:
    """`early` works alone, then `late` comes with a burst; one is served after the other. Returns when it ended."""
    alarms: list[Crossing] = []
    now = 0.0
    auditor = Auditor(alarms.append, lambda: now)
    room = WorkerRoom([Worker("w", 1, 100)])
    scheduler = Scheduler(parse_policy(policy), Weighted(), room, predictor=MaxTokens(), auditor=auditor)
    turns = [("early", 1)] * 40 + [("late", 60), ("early", 60)] + [("", 0)] * 100
    for tenant, count in turns:
        for i in range(count):
            scheduler.submit(Ticket(f"{tenant}{now}.{i}", tenant, 10, 20), now)
        grant = scheduler.pick()
        assert grant is not None
        scheduler.charge(grant.ticket, 20)
        scheduler.finish(grant.ticket)
        now += 1.0
    return alarms, auditor, now


@pytest.mark.parametrize("policy", ["fcfs", "lcf"])
def test_it_says_who_is_ahead_of_whom_where_the_law_is_not_kept(policy: str) -> None:
    alarms, auditor, end = overload(policy)
    assert auditor.crossings == len(alarms) >= 1
    first = alarms[0]
    assert {first.ahead, first.behind} == {"early", "late"}
    assert first.gap == first.ahead_counter - first.behind_counter > first.bound == 200
    assert 40 <= first.since <= first.now < end
    assert f"{first.ahead} (counter" in str(first)
    assert "the bound is 200" in str(first)


def test_it_is_silent_where_the_law_is_kept() -> None:
    assert overload("vtc")[0] == []


@PLAIN_ONLY
def test_a_scheduler_that_picks_the_wrong_tenant_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    from fairness.shares import Group

    def most(self: Group) -> Any:
        waiting = [member for member in self.members.values() if member.waiting]
        return max(waiting, key=lambda member: member.counter, default=None)

    monkeypatch.setattr(Group, "least", most)
    assert overload("vtc")[0]


def test_one_alarm_for_one_crossing_and_another_after_it_was_made_up() -> None:
    alarms: list[Crossing] = []
    auditor = Auditor(alarms.append, lambda: 7.0, scale=1)
    auditor.attach(lambda: (10.0, 0))
    a, b = auditor.joined("", "a", 0), auditor.joined("", "b", 0)
    for rise in (10, 1, 5):
        a.moved(rise)
    assert [(alarm.ahead, alarm.gap) for alarm in alarms] == [("a", 11)]
    b.moved(16)
    b.moved(10)
    a.moved(-1)
    assert [(alarm.ahead, alarm.gap) for alarm in alarms] == [("a", 11), ("b", 11)]
    b.left()
    assert auditor.gap() == 0


def test_many_events_leave_no_heap_behind() -> None:
    auditor = Auditor(lambda crossing: None, lambda: 0.0)
    auditor.attach(lambda: (5.0, 0))
    watches: list[Watch] = [auditor.joined("", str(i), 0) for i in range(10)]
    siblings: Siblings = watches[0].siblings
    chance = random.Random(1)
    for _ in range(5000):
        chance.choice(watches).moved(chance.randint(-2000, 3000))
    assert len(siblings.lows) + len(siblings.highs) < 250
