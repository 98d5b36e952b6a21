"""One law from one file, for a gateway by itself and for a replica alone, and the parts in which that has its room."""

from __future__ import annotations

from typing import Any

import pytest

from fairness import Auditor, Scheduler, State, Ticket, Worker
from gateway.config.load import parse_config
from gateway.config.schema import GatewayConfig
from gateway.pools.settings import scheduler_of, settings_of
from gateway.pools.shared.part_room import PartRoom
from gateway.pools.shared.settings import shared_settings_of

from ..conftest import tenant


def config(store: bool = False, **pool: Any) -> GatewayConfig:
    pools = {"p": {"models": ["m"], "workers": [{"url": "http://w", "slots": 8, "kv_tokens": 10_000}], **pool}}
    tenants = [tenant("a", weight=2.0), tenant("b", max_queued=1)]
    return parse_config({"pools": pools, "tenants": tenants, **({"store": {"url": "redis://x"}} if store else {})})


def part_room(parts: int) -> PartRoom:
    return PartRoom([Worker("w", 8, 10_000)], parts, adapters=1)


def law(parts: int, **pool: Any) -> Scheduler:
    settings = settings_of(config(**pool).pools["p"], config(**pool))
    auditor = Auditor(print, lambda: 0.0)
    return scheduler_of(settings, part_room(parts), auditor=auditor, predictor=settings.predictor(), parts=parts)


def ticket(who: str, n_in: int = 10) -> Ticket:
    return Ticket(f"{who}-{n_in}", who, n_in, 5)


def refused(scheduler: Scheduler, *who: str) -> list[str | None]:
    """Why each was not queued."""
    refusals = [scheduler.submit(ticket(one), 0.0) for one in who]
    return [refusal.reason if refusal else None for refusal in refusals]


@pytest.mark.parametrize("parts", [1, 3])
def test_what_a_file_says_is_the_law_in_every_part(parts: int) -> None:
    scheduler = law(parts, queue={"max_requests": 3}, cost="weighted:3,5", predict="max_tokens")
    assert (scheduler.weight("a"), scheduler.weight("b"), scheduler.weight("new")) == (2.0, 1.0, 1.0)
    assert refused(scheduler, "b", "b", "a", "a", "a") == [None, "tenant_queue_full", None, None, "pool_queue_full"]
    grant = scheduler.pick()
    assert grant is not None
    assert grant.ticket.predicted == 5
    assert scheduler.snapshot().tenants["b"].counter == 3 * 10 + 5 * 5


@pytest.mark.parametrize(("parts", "admitted"), [(1, 5), (2, 3), (9, 1)])
def test_a_rate_limit_is_granted_in_parts_rounded_up(parts: int, admitted: int) -> None:
    assert refused(law(parts, policy="rpm:5"), *"aaaaaa").count(None) == admitted


def test_only_a_store_makes_settings_shared() -> None:
    """What replicas share is what a gateway by itself goes by, and a revision of it."""
    lone = config()
    with pytest.raises(ValueError, match="without a store"):
        shared_settings_of(lone.pools["p"], lone)
    own, shared = (
        settings_of(lone.pools["p"], lone),
        shared_settings_of(config(store=True).pools["p"], config(store=True)),
    )
    assert (own.weights, own.default_weight, own.limits) == (shared.weights, shared.default_weight, shared.limits)
    assert (own.workers, own.predict, own.policy.spec) == (shared.workers, shared.predict, shared.policy.spec)


@pytest.mark.parametrize(("parts", "slots", "tokens"), [(1, 8, 10_000), (3, 2, 3_333), (12, 1, 833)])
def test_parts_are_rounded_down_and_nobody_is_without_a_slot(parts: int, slots: int, tokens: int) -> None:
    (worker,) = part_room(parts).workers.values()
    assert (worker.slots, worker.tokens) == (slots, tokens)


def test_a_request_that_is_larger_than_the_part_has_an_idle_worker_to_itself() -> None:
    scheduler = law(3)
    large, small = ticket("a", 4_000), ticket("b", 10)
    for one in (large, small):
        assert scheduler.submit(one, 0.0) is None
    assert scheduler.pick() is not None
    assert scheduler.pick() is None, "it takes more than our part already"
    scheduler.finish(large)
    assert scheduler.pick() is not None
    assert small.state is State.RUNNING
