"""When a store or a replica was away: nobody rides free, and no room is given twice."""

from __future__ import annotations

from itertools import count
from typing import Any

import redis

from .calls import WORKERS, Setup, Store

_names = count()
ALIVE = {"healthy": True, "ttl_ms": 3_600_000}
SLOTS = sum(slots for slots, _ in WORKERS.values())


def opened(client: redis.Redis, *replicas: str, **settings: Any) -> Store:
    store = Store(client, f"a{next(_names)}", Setup(**settings))
    for replica in replicas:
        assert store.join(replica)[0] == "ok"
    report_health(store, replicas[0])
    return store


def report_health(store: Store, replica: str) -> None:
    for worker in WORKERS:
        store.call(replica, ["worker", worker, ALIVE])


def submits(*names: str, tenant: str = "a") -> list[list[Any]]:
    return [["submit", name, tenant, 100, 10] for name in names]


def counter(store: Store, tenant: str) -> int:
    return int(store.inspect()["shares"][tenant]["counter"])


def known(answer: list[Any], **more: Any) -> dict[str, Any]:
    """What a replica remembers that had this answer, and has queued up to number 100."""
    return {"seq": 100, "number": 100, "shares": {path: rest for path, *rest in answer[11]}, **more}


def waiting(name: str, tenant: str, seq: int) -> dict[str, Any]:
    return {"id": name, "tenant": tenant, "n_in": 100, "max": 10, "seq": seq, "avoid": []}


def test_what_was_lifted_alone_stays_lifted(client: redis.Redis) -> None:
    """a was served alone, and y, which came meanwhile, was lifted to it: both come back as they stood."""
    store = opened(client, "r1")
    store.call("r1", *submits("t0"))
    store.call("r1", ["finish", "t0", 100, 0, 10])
    store.join("r1", joined=True, book={"a": 900_000, "y": 50_000}, alone={"y": 950_000})
    store.call("r1", *submits("t1", tenant="a"), *submits("t2", tenant="y"))
    assert counter(store, "a") == 950_000 + 100_000, "nobody waited: lifted to who has received the most"
    assert counter(store, "y") == 950_000 + 100_000


def test_a_newcomer_after_a_time_alone_is_lifted_to_who_was_served_then(client: redis.Redis) -> None:
    store = opened(client, "r1")
    store.join("r1", joined=True, book={"a": 900_000})
    store.call("r1", *submits("t0", tenant="b"))
    assert counter(store, "b") == 900_000 + 40_000  # b has weight 2.5


def test_a_new_ticket_is_not_taken_for_one_that_waited(client: redis.Redis) -> None:
    """z waited when the store was lost, was served alone, and waits again: it is lifted like anybody."""
    store = opened(client, "r1")
    store.call("r1", *submits(*(f"t{n}" for n in range(SLOTS))))
    store.call("r1", *submits("old", tenant="z"))
    store.join(
        "r1",
        joined=True,
        book={"a": 5_000_000, "z": 120_000},
        waiting=[waiting("mine", "a", 0), waiting("new", "z", -1)],
    )
    assert counter(store, "z") >= 5_000_000


def test_what_the_dead_had_charged_is_remembered_by_others(client: redis.Redis) -> None:
    """r2 served a, and died with the store's data: r1 was told where a stood."""
    store = opened(client, "r1", "r2")
    store.call("r2", *submits("t0"))
    store.call("r2", ["finish", "t0", 100, 0, 10])
    told = store.call("r1", *submits("t1"))
    before = counter(store, "a")
    store.become({})
    store.call("r1")
    store.join("r1", joined=True, peers=1, book={"a": 100_000}, known=known(told), waiting=[waiting("t1", "a", 3)])
    assert counter(store, "a") == before


def test_the_example_of_what_replicas_remember(client: redis.Redis) -> None:
    """Its numbers are those in known.py: both tell of a; then only one does, because the other died with the store."""
    told = {"r1": (25_000, 95_000), "r2": (47_000, 97_000)}
    for alive, expected in ((["r1", "r2"], 102_000), (["r1"], 95_000)):
        store = opened(client, "r1", "r2")
        store.become({})
        for replica in alive:
            book, seen = told[replica]
            known = {"seq": 100, "number": 100, "shares": {"a": [30_000, seen, 0, 9]}}
            store.join(replica, joined=True, peers=len(alive), book={"a": book}, known=known)
        assert counter(store, "a") == expected


def test_a_store_that_forgot_takes_the_lift_targets_of_groups(client: redis.Redis) -> None:
    """Who was forgotten in g/ is known by its lift target alone: a member that comes back begins there."""
    store = opened(client, "r1")
    store.become({})
    store.call("r1")
    told = {"g/": [900_000, 900_000, 800_000, 9]}
    store.join("r1", joined=True, known={"seq": 100, "number": 100, "shares": told})
    report_health(store, "r1")
    store.call("r1", *submits("t1", tenant="g/y"))
    assert counter(store, "g/y") == 800_000 + 100_000


def test_a_silent_newcomer_does_not_take_the_room_of_the_others(client: redis.Redis) -> None:
    """r1 never had a ticket; it is the first to come back to a store that forgot. r2 runs all there is to run."""
    store = opened(client, "r1", "r2")
    store.call("r2", *submits(*(f"t{n}" for n in range(SLOTS))))
    store.become({})
    assert store.call("r1")[0] == "rejoin"
    assert store.join("r1", joined=True, peers=2)[6] == 1, "it gathers"
    report_health(store, "r1")
    assert store.call("r1", *submits("mine"))[10] == []


def test_whoever_is_first_after_a_long_silence_waits_for_the_others(client: redis.Redis) -> None:
    store = opened(client, "r1", "r2", lease_ms=150)
    granted = store.call("r2", *submits(*(f"t{n}" for n in range(SLOTS))))[10]
    assert len(granted) == SLOTS
    silence = store.client.time()
    while since(silence, store.client.time()) <= 0.16:
        pass
    assert store.call("r1")[0] == "rejoin"
    answer = store.join("r1", joined=True, peers=2)
    assert answer[6] == 1
    assert store.call("r1", *submits("mine"))[10] == []


def since(start: tuple[int, int], end: tuple[int, int]) -> float:
    return end[0] - start[0] + (end[1] - start[1]) / 1e6


def test_who_has_not_joined_since_is_not_taken_for_present(client: redis.Redis) -> None:
    store = opened(client, "r1", "r2")
    copy = store.copy()
    told = store.call("r1", *submits("t0"))
    store.become(copy)
    assert store.call("r1")[0] == "rejoin"
    store.join("r1", joined=True, peers=2, known=known(told))
    assert store.call("r2")[2] == "gathering"
    assert store.join("r2", joined=True, peers=2)[6] == 0, "all are here"


def test_a_removed_worker_stays_away(client: redis.Redis) -> None:
    store = opened(client, "r1")
    store.call("r1", *submits(*(f"t{n}" for n in range(SLOTS))))
    settings = (
        store.setup.settings()
        .replace('{"id": "w1", "slots": 3, "tokens": 900}, ', "")
        .replace('"revision": 1', '"revision": 2')
    )
    store.call("r2", ["join", {"settings": settings, "peers": 1, "running": [], "waiting": [], "book": {}, **NOTHING}])
    store.call("r1", ["worker", "w1", ALIVE])
    healthy = {w["id"]: w["healthy"] for w in store.inspect()["workers"]}
    assert healthy == {"w2": True, "w1": False}
    store.call("r1", *(["finish", f"t{n}", 100, 0, 10] for n in range(SLOTS)))
    assert [w["id"] for w in store.inspect()["workers"]] == ["w2"]


def test_a_new_revision_may_change_a_room_and_one_that_says_the_same_does_not(client: redis.Redis) -> None:
    store = opened(client, "r1")
    store.call("r1", ["worker", "w2", {"slots": 7}])
    settings = store.setup.settings().replace('"slots": 3', '"slots": 4').replace('"revision": 1', '"revision": 2')
    store.call("r2", ["join", {"settings": settings, "peers": 1, "running": [], "waiting": [], "book": {}, **NOTHING}])
    assert {w["id"]: w["slots"] for w in store.inspect()["workers"]} == {"w1": 4, "w2": 7}


NOTHING = {"known": {"seq": 0, "number": 0, "shares": {}}}


def test_an_old_copy_of_a_join_changes_nothing(client: redis.Redis) -> None:
    store = opened(client, "r1")
    store.call("r1", *submits("t0"))
    store.call("r1", ["finish", "t0", 100, 0, 10])
    late = [
        "join",
        {"settings": store.setup.settings(), "peers": 1, "running": [], "waiting": [], "book": {}, **NOTHING},
    ]
    assert store.call("r1", late, batch=1)[0] == "rejoin"
    assert store.book("r1") == {"a": 120_000}
