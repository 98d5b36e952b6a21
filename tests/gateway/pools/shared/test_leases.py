"""What the Lua machine does about replicas that go, workers that are full, and configurations that differ."""

from __future__ import annotations

from itertools import count
from typing import Any

import redis

from fairgate.topology.stores import find_servers

from .calls import WORKERS, Setup, Store

SERVERS = find_servers()
_names = count()
ALIVE = {"healthy": True, "ttl_ms": 3_600_000}


def opened(client: redis.Redis, *replicas: str, **settings: Any) -> Store:
    store = Store(client, f"l{next(_names)}", Setup(**settings))
    for replica in replicas:
        assert store.join(replica)[0] == "ok"
    for worker in WORKERS:
        store.call(replicas[0], ["worker", worker, ALIVE])
    return store


def lapse(store: Store, replica: str) -> None:
    """As if the replica had been silent for longer than its lease."""
    store.client.zadd(f"{store.prefix}:leases", {replica: 1})


def until_reaped(store: Store, caller: str, dead: str) -> None:
    """Reaping looks at most every 100 ms."""
    while store.client.zscore(f"{store.prefix}:leases", dead) is not None:
        assert store.call(caller)[0] == "ok"


def test_what_a_dead_replica_held_is_free_and_what_it_reported_stands(client: redis.Redis) -> None:
    store = opened(client, "r1", "r2")
    store.call("r1", *[["submit", f"t{n}", "a", 100, 50] for n in range(6)])
    store.call("r1", ["charge", "t0", 100, 0, 10])
    before = store.inspect()
    assert before["running"] == 5
    assert before["waiting"] == 1
    lapse(store, "r1")
    until_reaped(store, "r2", "r1")
    after = store.inspect()
    assert (after["running"], after["waiting"]) == (0, 0)
    assert all(worker["running"] == worker["reserved"] == 0 for worker in after["workers"])
    assert after["shares"]["a"]["counter"] == str(5 * 100_000 + 20_000)
    assert after["shares"]["a"]["lifted"] == after["shares"]["a"]["counter"]
    assert client.hlen(f"{store.prefix}:tickets") == 0


def test_room_of_the_dead_goes_to_who_waits(client: redis.Redis) -> None:
    store = opened(client, "r1", "r2")
    store.call("r1", *[["submit", f"t{n}", "a", 100, 50] for n in range(5)])
    store.call("r2", ["submit", "mine", "b", 100, 50])
    assert store.inspect()["waiting"] == 1
    lapse(store, "r1")
    granted: list[str] = []
    while not granted:
        granted = store.call("r2")[10]
    assert '"ticket":"mine"' in granted[0]


def test_a_paused_replica_must_join_and_is_not_charged_twice(client: redis.Redis) -> None:
    store = opened(client, "r1", "r2")
    store.call("r1", ["submit", "t0", "a", 100, 50])
    store.call("r1", ["charge", "t0", 100, 0, 10])
    lapse(store, "r1")
    until_reaped(store, "r2", "r1")
    assert store.call("r1", ["charge", "t0", 100, 0, 20])[0] == "rejoin"
    running = {
        "id": "t0",
        "tenant": "a",
        "n_in": 100,
        "cached": 0,
        "max": 50,
        "produced": 20,
        "predicted": 0,
        "worker": "w1",
        "number": 0,
        "seq": 0,
        "avoid": [],
        "weights": [1.0],
        "charged": [140_000],
    }
    store.join("r1", running=[running], book={"a": 140_000}, known={"seq": 1, "number": 1, "shares": {}})
    share = store.inspect()["shares"]["a"]
    assert (share["counter"], share["running"]) == ("140000", 1)
    assert store.book("r1") == {"a": 140_000}
    assert int(share["lifted"]) + 140_000 == int(share["counter"])


def test_who_leaves_takes_everything_along(client: redis.Redis) -> None:
    store = opened(client, "r1", "r2")
    store.call("r1", *[["submit", f"t{n}", "a", 100, 50] for n in range(7)])
    store.call("r1", ["leave"])
    left = store.inspect()
    assert (left["running"], left["waiting"]) == (0, 0)
    suffixes = {key.decode().rsplit(":", 1)[1] for key in store.stored() if b"r1" in key}
    assert not suffixes


def test_a_full_engine_is_held_off_and_then_trusted_with_what_it_ran(client: redis.Redis) -> None:
    store = opened(client, "r1")
    store.call("r1", ["worker", "w2", {"healthy": False}])
    store.call("r1", *[["submit", f"t{n}", "a", 10, 5] for n in range(5)])
    answer = store.call("r1", ["worker", "w1", {"overflowed": True}], ["requeue", "t2", []])
    assert 0 < answer[7] <= 50
    assert answer[10] == []
    (worker,) = (w for w in store.inspect()["workers"] if w["id"] == "w1")
    assert (worker["slots"], worker["running"]) == (0, 2)
    while (answer := store.call("r1"))[7]:
        assert answer[10] == [], "nothing goes to a worker that is held off"
    assert store.inspect()["running"] == 2, "it ran two when it was full: no third"
    answer = store.call("r1", ["finish", "t0", 10, 0, 5], ["finish", "t1", 10, 0, 5])
    assert len(answer[10]) == 3, "a round that was served gives one slot back"


def test_health_is_believed_until_it_expires(client: redis.Redis) -> None:
    store = opened(client, "r1")
    for worker in WORKERS:
        store.call("r1", ["worker", worker, {"healthy": True, "ttl_ms": 1}])
    while any(worker["healthy"] for worker in store.inspect()["workers"]):
        pass
    assert store.call("r1", ["submit", "t0", "a", 10, 5])[10] == []
    assert len(store.call("r1", ["worker", "w1", ALIVE])[10]) == 1


def test_a_head_that_no_healthy_worker_can_take_does_not_block_the_others(client: redis.Redis) -> None:
    store = opened(client, "r1", "r2")
    store.call("r1", *[["submit", f"t{n}", "a", 500, 50] for n in range(2)])
    store.call("r2", ["submit", "large", "b", 800, 50], ["submit", "small", "c", 20, 50])
    store.call("r1", ["worker", "w1", {"healthy": False}], ["finish", "t0", 500, 0, 5])
    told = store.granted_to("r2")
    assert [(grant["ticket"], grant.get("refused")) for grant in told] == [
        ("large", "no_large_worker"),
        ("small", None),
    ]


def test_the_highest_revision_is_in_force(client: redis.Redis) -> None:
    store = opened(client, "r1", "r2")
    store.setup = Setup(weights={"a": 4.0, "b": 1.0}, revision=2)
    assert store.join("r1")[3] == 2
    assert store.call("r2")[3] == 2
    store.setup = Setup(revision=1)
    assert store.join("r3")[3] == 2
    answer = store.call("r2", ["submit", "t0", "a", 10, 5])
    assert '"weights":["4"]' in answer[10][0]


def test_the_window_of_rpm_slides(client: redis.Redis) -> None:
    store = opened(client, "r1", policy="rpm:2")
    answer = store.call("r1", *[["submit", f"t{n}", "a", 10, 5] for n in range(3)])
    ((ticket, reason, limit, wait),) = answer[9]
    assert (ticket, reason, limit) == ("t2", "rate_limit", 2)
    assert 59_000 < wait <= 60_000
    window = f"{store.prefix}:rate:a"
    client.zincrby(window, -60_000, "t0")
    assert store.call("r1", ["submit", "t3", "a", 10, 5])[9] == []
