"""The examples in the Lua machine's comments, with their numbers."""

from __future__ import annotations

from typing import Any

import redis

from .calls import Setup, Store
from .test_leases import lapse, opened, until_reaped

TENANT = "n"  # of weight 1


def counter_and_lifted(store: Store) -> tuple[int, int]:
    share = store.inspect()["shares"][TENANT]
    return int(share["counter"]), int(share["lifted"])


def remembers(book: int) -> dict[str, Any]:
    """A replica that was here before the store forgot: its book, and what it last heard of the tenant."""
    known = {"seq": 5, "number": 5, "shares": {TENANT: [20_000, 50_000 + book, 0, 7]}}
    return {"book": {TENANT: book}, "known": known, "joined": True, "peers": 2}


def test_recall_after_an_empty_store(client: redis.Redis) -> None:
    for book, lifted in ((50_000, 20_000), (75_000, 20_000)):
        store = Store(client, f"recall{book}", Setup())
        store.join("r1", **remembers(30_000) | {"known": remembers(50_000)["known"]})
        assert counter_and_lifted(store) == (100_000, 70_000)
        store.join("r2", **remembers(book))
        assert counter_and_lifted(store) == (50_000 + book, lifted)


def test_lifts_of_a_time_alone(client: redis.Redis) -> None:
    store = opened(client, "r1", "r2")
    store.join("r1", joined=True, book={TENANT: 40_000})
    assert counter_and_lifted(store) == (40_000, 0)
    store.join("r1", joined=True, book={TENANT: 70_000}, alone={TENANT: 130_000})
    assert counter_and_lifted(store) == (130_000, 60_000)


def test_what_a_death_costs(client: redis.Redis) -> None:
    store = opened(client, "r1", "r2", predict="max_tokens")
    store.call("r1", ["submit", "t", TENANT, 10, 20])
    store.call("r1", ["charge", "t", 10, 0, 4])
    assert counter_and_lifted(store) == (50_000, 0)
    lapse(store, "r1")
    until_reaped(store, "r2", "r1")
    assert counter_and_lifted(store) == (18_000, 18_000)
    store.join("r1", joined=True, book={TENANT: 28_000})
    assert counter_and_lifted(store) == (28_000, 0)
