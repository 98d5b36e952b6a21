"""What the store and the gateways say of a pool, read from outside: state, books and standing."""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import redis

from fairgate.topology.processes import DIRECT
from fairgate.topology.settings import POOL
from fairgate.topology.stores import StoreServer
from gateway.pools.shared.machine import machine

PREFIX = f"{{fairgate:{POOL}}}"


@dataclass(frozen=True)
class StoreState:
    """What the store held in one moment. `look` as inspect.lua tells it; `books` of the replicas that have a lease, in
    thousandths; `keys` without their common prefix."""

    look: Mapping[str, Any]
    books: Mapping[str, Mapping[str, int]]
    tickets: int
    keys: frozenset[str]


def read_store(store: StoreServer) -> StoreState:
    """Raises redis.RedisError, also where there is no pool."""
    with store.client() as client:
        client.function_load(machine().source, replace=True)
        names = _leases(client)
        with client.pipeline(transaction=True) as pipe:
            pipe.fcall(machine().function("inspect"), 1, PREFIX)
            pipe.zrange(f"{PREFIX}:leases", 0, -1)
            pipe.hlen(f"{PREFIX}:tickets")
            pipe.keys(f"{PREFIX}:*")
            for name in names:
                pipe.hgetall(f"{PREFIX}:book:{name}")
            look, leases, tickets, keys, *books = pipe.execute()
    if look is None or set(leases) != set(names):
        raise redis.RedisError("the pool changed its members")
    found = {name: _numbers(book) for name, book in zip(names, books, strict=True)}
    return StoreState(json.loads(look), found, tickets, frozenset(key.removeprefix(f"{PREFIX}:") for key in keys))


def _leases(client: redis.Redis) -> list[str]:
    found: Any = client.zrange(f"{PREFIX}:leases", 0, -1)
    return list(found)


def _numbers(book: Mapping[str, str]) -> dict[str, int]:
    return {path: int(total) for path, total in book.items() if int(total)}


def books_of(store: StoreServer, names: Iterable[str]) -> dict[str, dict[str, int]]:
    """As the store has them, of replicas that live or died lately. Raises redis.RedisError."""
    return {name: _numbers(store.command("HGETALL", f"{PREFIX}:book:{name}")) for name in names}


def last_call(store: StoreServer, name: str, lease_s: float) -> float:
    """When a replica last called, Unix time; 0 where it has no lease. Raises redis.RedisError."""
    ends_ms = store.command("ZSCORE", f"{PREFIX}:leases", name)
    return 0.0 if ends_ms is None else float(ends_ms) / 1e3 - lease_s


def shares_without_sum(state: StoreState) -> list[str]:
    """Tenants whose counter is something else than what was lifted and what the books hold."""
    wrong = []
    for path, share in state.look["shares"].items():
        booked = sum(book.get(path, 0) for book in state.books.values())
        if path and int(share["lifted"]) + booked != int(share["counter"]):
            wrong.append(f"{path}: {share['lifted']} lifted + {booked} booked, counter {share['counter']}")
    return wrong


def standing_of(url: str) -> str:
    """How a gateway stands with the store; empty where it does not answer."""
    try:
        return str(_get(url, "/readyz")["pools"][POOL]["mode"])
    except (OSError, ValueError, KeyError):
        return ""


def name_of(url: str) -> str:
    """A gateway's id in the store. Raises OSError."""
    return str(_get(url, "/debug/book")[POOL]["replica"])


def own_book(url: str) -> tuple[str, dict[str, int]]:
    """A gateway's id and what it says that it has charged. Raises OSError."""
    own = _get(url, "/debug/book")[POOL]
    return str(own["replica"]), {path: total for path, total in own["charged"].items() if total}


def _get(url: str, path: str) -> Any:
    try:
        with DIRECT.open(url + path, timeout=5) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return json.load(error)
