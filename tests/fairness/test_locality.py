"""Locality within a stated slack: never further from the strict order than that, and nothing with slack 0."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

import pytest

from fairness import AdapterRoom, Grant, MaxTokens, Scheduler, Ticket, Weighted, Worker
from fairness.policies import Vtc

from .reference import levels, parent
from .world import KINDS, World, random_ops, random_setting


def pool(slack: float, adapter_slots: int = 2, slots: int = 4, tokens: int = 200, load: float = 0.0) -> Scheduler:
    room = AdapterRoom([Worker("w", slots, tokens)], {"w": adapter_slots})
    return Scheduler(Vtc(slack), Weighted(), room, predictor=MaxTokens(), residency=room, adapter_load=load)


def submit(scheduler: Scheduler, tenant: str, count: int = 1, n_in: int = 10, n_out: int = 20) -> list[Ticket]:
    """Each tenant has an adapter of its own."""
    tickets = [Ticket(f"{tenant}{i}", tenant, n_in, n_out, adapter=f"lora-{tenant}") for i in range(count)]
    assert all(scheduler.submit(ticket, 0.0) is None for ticket in tickets)
    return tickets


def serve(scheduler: Scheduler) -> Ticket:
    grant = scheduler.pick()
    assert grant is not None
    end(scheduler, grant)
    return grant.ticket


def serve_later(scheduler: Scheduler) -> Grant:
    grant = scheduler.pick()
    assert grant is not None
    return grant


def end(scheduler: Scheduler, grant: Grant) -> None:
    scheduler.charge(grant.ticket, grant.ticket.max_tokens)
    scheduler.finish(grant.ticket)
    scheduler.check_integrity()


def counters(scheduler: Scheduler) -> dict[str, float]:
    """Of tenants and groups that wait."""
    snapshot = scheduler.snapshot()
    return {path: state.counter for path, state in {**snapshot.tenants, **snapshot.groups}.items() if state.waiting}


class AdapterWorld(World):
    """Every ticket has an adapter, and there is room for all of them: the order must be that of the plain law."""

    def __post_init__(self) -> None:
        scheduler = self.setting.scheduler

        def with_adapters(policy: Vtc, cost: object, room: object, **options: object) -> Scheduler:
            self.adapters = AdapterRoom(list(self.room.workers.values()), dict.fromkeys(self.room.workers, 9))
            return scheduler(policy, cost, self.adapters, residency=self.adapters, **options)

        self.setting = self.setting._replace(scheduler=with_adapters)
        super().__post_init__()
        self.room = self.adapters

    def do_submit(self, a: int, b: int) -> None:
        before = len(self.tickets)
        super().do_submit(a, b)
        for ticket in self.tickets[before:]:
            ticket.adapter = f"lora{b % 4}"


def test_with_slack_0_it_is_the_plain_law_decision_for_decision() -> None:
    for seed in range(60):
        chance = random.Random(seed)
        AdapterWorld(random_setting(chance)).play(random_ops(chance, 80, KINDS))


@pytest.mark.parametrize("tenants", ["abcde", ("x/a", "x/b", "x/y/c", "z/d", "z/e", "f")], ids=["flat", "tree"])
@pytest.mark.parametrize("slack", [0.0, 100.0, 400.0])
def test_no_turn_is_further_from_the_strict_order_than_the_slack_and_the_bound_holds(
    slack: float, tenants: Sequence[str]
) -> None:
    for seed in range(15):
        chance = random.Random(seed)
        scheduler = pool(slack)
        running: list[Grant] = []
        for _ in range(300):
            tenant = chance.choice(tenants)
            submit(scheduler, tenant, chance.randint(0, 2), chance.randint(1, 60), chance.randint(1, 60))
            waiting = counters(scheduler)
            grant = scheduler.pick()
            if grant is not None:
                for path in levels(grant.ticket.tenant):
                    siblings = [counter for other, counter in waiting.items() if parent(other) == parent(path)]
                    assert waiting[path] <= min(siblings) + slack
                running.append(grant)
            elif running:
                end(scheduler, running.pop(chance.randrange(len(running))))
            assert scheduler.gap() <= scheduler.bound() == 2 * 200 + slack


def loads(scheduler: Scheduler, turns: int) -> int:
    """Adapters brought in while tenants take turns on a worker that holds one."""
    served = [serve(scheduler).adapter for _ in range(turns)]
    return sum(a != b for a, b in pairwise(served))


def test_slack_saves_adapter_loads() -> None:
    brought_in = {}
    for slack in (0.0, 200.0):
        scheduler = pool(slack, adapter_slots=1)
        for _ in range(40):
            submit(scheduler, "a")
            submit(scheduler, "b")
        brought_in[slack] = loads(scheduler, 60)
    assert brought_in[0.0] == 59
    assert brought_in[200.0] <= 59 / 4


def test_without_slack_nobody_passes_a_head_that_lacks_an_adapter_slot() -> None:
    scheduler = pool(0.0, adapter_slots=1)
    submit(scheduler, "a", 5)
    assert scheduler.pick() is not None
    submit(scheduler, "b", 5)
    assert [grant.ticket.tenant for grant in iter(scheduler.pick, None)] == ["a"], "equal, and older"
    assert counters(scheduler) == {"a": 100, "b": 50}


def test_others_pass_within_the_slack_and_the_next_slot_is_kept_for_the_head() -> None:
    scheduler = pool(120.0, adapter_slots=1, slots=2)
    submit(scheduler, "a")
    running = [serve_later(scheduler)]
    submit(scheduler, "head", 5)
    submit(scheduler, "stranger", 5)
    for i in range(9):
        ticket = Ticket(f"sharer{i}", f"sharer{i}", 10, 20, adapter="lora-a")
        scheduler.submit(ticket, 0.0)
    running.append(serve_later(scheduler))
    assert running[1].ticket.tenant == "sharer0", "only who uses the adapter that is in use may pass"
    end(scheduler, running[0])
    running.append(serve_later(scheduler))
    assert running[2].ticket.tenant == "sharer1"
    end(scheduler, running[1])
    end(scheduler, running[2])
    assert serve_later(scheduler).ticket.tenant == "head", "though sharers find their adapter at hand, in a free slot"


def test_a_head_that_leaves_the_queue_leaves_no_claim_behind() -> None:
    scheduler = pool(120.0, adapter_slots=1, slots=2)
    submit(scheduler, "a")
    running = serve_later(scheduler)
    (head,) = submit(scheduler, "head")
    assert scheduler.pick() is None
    scheduler.cancel(head)
    end(scheduler, running)
    submit(scheduler, "next")
    assert serve_later(scheduler).ticket.tenant == "next"


def test_passing_ends_with_the_slack_though_the_slot_never_frees() -> None:
    scheduler = pool(120.0, adapter_slots=1, slots=9, tokens=1000)
    submit(scheduler, "a")
    serve_later(scheduler)
    submit(scheduler, "head")
    submit(scheduler, "a", 9)
    assert len([grant for grant in iter(scheduler.pick, None) if grant.ticket.tenant == "a"]) == 3
    assert counters(scheduler) == {"head": 50, "a": 200}


def test_nobody_passes_a_head_that_lacks_room() -> None:
    scheduler = pool(1000.0, slots=8, tokens=100)
    submit(scheduler, "a", 1, 10, 50)
    assert scheduler.pick() is not None
    submit(scheduler, "large", 1, 60, 30)
    submit(scheduler, "a", 1, 1, 1)
    assert counters(scheduler)["large"] <= counters(scheduler)["a"]
    assert scheduler.pick() is None


def test_an_adapter_load_is_charged_once_for_each_that_is_brought_in_and_undone_by_a_requeue() -> None:
    scheduler = pool(0.0, adapter_slots=1, load=500.0)
    submit(scheduler, "a", 3)
    served = [serve(scheduler) for _ in range(2)]
    assert [ticket.charged for ticket in served] == [(500 + 50) * 1000, 50 * 1000]
    assert scheduler.bound() == 2 * 200 + 500
    before = scheduler.snapshot().tenants["a"].counter
    grant = scheduler.pick()
    assert grant is not None
    scheduler.requeue(grant.ticket)
    scheduler.check_integrity()
    assert scheduler.snapshot().tenants["a"].counter == before


def test_the_longest_unused_adapter_makes_way() -> None:
    scheduler = pool(0.0, adapter_slots=2)
    for tenant in ("a", "b", "a", "c"):
        submit(scheduler, tenant)
        serve(scheduler)
    room = scheduler.room
    assert isinstance(room, AdapterRoom)
    assert room.adapters("w") == ["lora-a", "lora-c"]
