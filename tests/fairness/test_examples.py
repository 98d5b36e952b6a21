"""The examples in the docstrings of `fairness.shares`, with their numbers."""

from __future__ import annotations

from fairness import Balances, MaxTokens, Scheduler, Ticket, Weighted, Worker, WorkerRoom
from fairness.policies import Vtc
from fairness.shares import Group


def pool(slots: int = 4) -> Scheduler:
    return Scheduler(Vtc(), Weighted(), WorkerRoom([Worker("w", slots, 10_000)]), predictor=MaxTokens())


def submit(scheduler: Scheduler, tenant: str, n_in: int = 10, max_tokens: int = 5) -> Ticket:
    ticket = Ticket(tenant, tenant, n_in, max_tokens)
    assert scheduler.submit(ticket, 0.0) is None
    return ticket


def pick(scheduler: Scheduler) -> Ticket:
    grant = scheduler.pick()
    assert grant is not None
    return grant.ticket


def finish(scheduler: Scheduler, ticket: Ticket, produced: int | None = None) -> None:
    scheduler.charge(ticket, ticket.max_tokens if produced is None else produced)
    scheduler.finish(ticket)


def counters(scheduler: Scheduler) -> dict[str, float]:
    snapshot = scheduler.snapshot()
    return {path: state.counter for path, state in (snapshot.tenants | snapshot.groups).items()}


def root(scheduler: Scheduler) -> Group:
    return scheduler._forest.roots()[0]


def test_lift_after_a_refund() -> None:
    scheduler = pool()
    a = submit(scheduler, "a", 10, 45)
    pick(scheduler)
    b = submit(scheduler, "b")
    assert counters(scheduler) == {"a": 100, "b": 100}
    scheduler.cancel(b)
    assert counters(scheduler) == {"a": 100}, "b is forgotten"
    finish(scheduler, a, 10)
    assert a.charged == 30_000
    submit(scheduler, "c")
    scheduler.cancel(submit(scheduler, "b"))
    assert (counters(scheduler)["c"], root(scheduler).lift_target) == (100, 100_000)


def test_catch_up() -> None:
    group = Group("", None, lift_target=200)
    for counter, after in ((100, 200), (900, 900)):
        member = Group("x/", group, counter=counter, base=counter)
        group.catch_up(member)
        assert member.counter == member.base == after


def test_who_left_last() -> None:
    scheduler = pool()
    for tenant in "abc":
        submit(scheduler, tenant)
    _, b, c = (pick(scheduler) for _ in "abc")
    last = [getattr(root(scheduler).last_left(), "path", "")]
    scheduler.requeue(c)
    last.append(getattr(root(scheduler).last_left(), "path", ""))
    finish(scheduler, b)
    last.append(getattr(root(scheduler).last_left(), "path", ""))
    assert pick(scheduler) is c
    last.append(getattr(root(scheduler).last_left(), "path", ""))
    assert last == ["c", "b", "b", "c"]


def test_who_is_forgotten() -> None:
    scheduler = pool()
    scheduler.seed(Balances({"a": 80_000, "b": 130_000}, {"": 100_000}))
    group = root(scheduler)
    group.rest(group.members["a"])
    group.rest(group.members["b"])
    group.lift_target = 100_000
    group.forget()
    assert set(group.members) == {"b"}
    group.lift_target = 130_000
    group.forget()
    assert not group.members


def test_nobody_knows_who_left_last() -> None:
    scheduler = pool()
    scheduler.seed(Balances({"a": 500_000, "b": 300_000}))
    submit(scheduler, "c")
    assert counters(scheduler)["c"] == 500


def group_at_rest(b_output: int) -> Scheduler:
    """In x, b is served first, 10 tokens and `b_output`, then a, 10 and 20: 50."""
    scheduler = pool(slots=1)
    submit(scheduler, "x/b", 10, b_output)
    submit(scheduler, "x/a", 10, 20)
    for tenant in ("x/b", "x/a"):
        ticket = pick(scheduler)
        assert ticket.tenant == tenant
        finish(scheduler, ticket)
    return scheduler


def test_a_group_is_forgotten_with_all_its_members_or_not_at_all() -> None:
    scheduler = group_at_rest(b_output=30)
    assert counters(scheduler) == {"x/": 120, "x/b": 70}
    group = root(scheduler).members["x/"]
    assert isinstance(group, Group)
    assert group.lift_target == 50_000
    assert counters(group_at_rest(b_output=15)) == {"x/": 90}, "x is above the lift target of the root, which is 0"
