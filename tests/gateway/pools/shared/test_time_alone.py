"""What a replica was told of counters, and what it came to alone, holds through a time alone and the way back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fairgate.topology.stores import StoreServer

from ...conftest import tenant, until
from ...engine import Engine, Script
from .conftest import Fleet, MakeFleet, answers


def tenants_in(group: str) -> list[dict[str, Any]]:
    return [tenant("a") | {"id": f"{group}a"}, tenant("b") | {"id": f"{group}b"}, tenant("limited")]


def returns(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """When it is set the first gateway tries once to come back, whether the store takes writes or not."""
    client, back = fleet[0].gateway.store, asyncio.Event()
    assert client is not None

    async def takes_writes(key: str, *, within: float) -> bool:
        await back.wait()
        back.clear()
        return True

    monkeypatch.setattr(client, "takes_writes", takes_writes)
    return back


async def serve(fleet: Fleet, order: str) -> None:
    for who in order:
        assert await answers([fleet[0].post(who)]) == [200]


@pytest.mark.parametrize("group", ["", "org/"])
async def test_nobody_rides_free_after_a_time_alone(
    make_fleet: MakeFleet, server: StoreServer, monkeypatch: pytest.MonkeyPatch, group: str
) -> None:
    """Alone, a is served ten requests; b comes, is lifted to a and served one; a is served another, which takes the
    lift target above b, so that b is forgotten. The way back fails: the store does not answer the join, and the gateway
    is alone again. Both have asked meanwhile, and take turns: b, of whom only the lift target tells by now, is not ten
    requests behind a."""
    fleet = await make_fleet(Engine(), gateways=1, tenants=tenants_in(group))
    back = returns(fleet, monkeypatch)
    await serve(fleet, "ab")
    server.pause()
    await until(fleet[0].lost)
    await serve(fleet, "a" * 10 + "ba")
    first_time = fleet[0].pool.mode
    fleet.engine.seen.clear()
    fleet.engine.default = Script(hold_before=0)
    back.set()
    await until(lambda: fleet[0].pool.mode is not first_time)
    calls = [fleet[0].post(who) for who in "ab" * 6]
    await until(lambda: fleet.waiting() + fleet.running() == 12)
    await until(fleet[0].lost)
    fleet.engine.go.set()
    assert await answers(calls) == [200] * 12
    order = "".join(body["user"] for body in fleet.engine.seen)
    assert 2 <= order[:6].count("b") <= 4, order
    server.resume()
    back.set()
    await until(fleet.shared)
    await fleet.settled()


async def test_what_was_on_its_way_to_the_store_is_lifted_like_any_newcomer(
    make_fleet: MakeFleet, server: StoreServer
) -> None:
    """a has been served a long while without a pause, so that nobody was lifted; b's requests have not reached the
    store when it is lost. They did not wait there: b is lifted to a, and they take turns."""
    fleet = await make_fleet(Engine(), gateways=1, tenants=tenants_in("org/"))
    await serve(fleet, "ab")
    fleet.engine.scripts.extend(Script() for _ in range(10))
    fleet.engine.default = Script(hold_before=0)
    calls = [fleet[0].post("a") for _ in range(17)]
    await until(lambda: fleet.engine.active == 1 and not fleet.engine.scripts and fleet.look()["waiting"] == 6)
    server.pause()
    fleet.engine.seen.clear()
    calls += [fleet[0].post("b") for _ in range(6)]
    await until(lambda: fleet.waiting() == 12)
    await until(fleet[0].lost)
    fleet.engine.go.set()
    assert await answers(calls) == [200] * 23
    order = "".join(body["user"] for body in fleet.engine.seen)
    assert 2 <= order[:6].count("b") <= 4, order
    server.resume()
    await until(fleet.shared)
    await fleet.settled()


async def test_who_was_forgotten_alone_is_still_where_the_store_has_it(
    make_fleet: MakeFleet, server: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """b is served 900 tokens while a waits. Alone, a is charged 900 in advance; a newcomer is lifted to that and
    leaves, which takes the lift target above b, so that b is forgotten; a's answer is short. The store comes back with
    all it had and is lost a second time: b, still far ahead of a, has no turn before a's eight that wait."""
    fleet = await make_fleet(Engine(), gateways=1, tenants=tenants_in(""), pool={"predict": "max_tokens"})
    back = returns(fleet, monkeypatch)
    await serve(fleet, "a")
    fleet.engine.default = Script(hold_before=0)
    calls = [fleet[0].post("limited")]
    await fleet.engine.until(lambda: fleet.engine.active == 1)
    calls.append(fleet[0].post("b", max_tokens=900))
    await until(lambda: fleet.look()["waiting"] == 1)
    calls.append(fleet[0].post("a"))
    await until(lambda: fleet.look()["waiting"] == 2)
    fleet.engine.go.set()
    assert await answers(calls) == [200] * 3

    fleet.engine.go.clear()
    server.pause()
    await until(fleet[0].lost)
    fleet.engine.default = Script(hold_before=0, text=[["x"]])
    long = fleet[0].post("a", max_tokens=900)
    await fleet.engine.until(lambda: fleet.engine.active == 1)
    newcomer = fleet[0].post("limited")
    await until(lambda: fleet.waiting() == 1)
    newcomer.cancel()
    await until(lambda: fleet.waiting() == 0)
    fleet.engine.go.set()
    assert await answers([long]) == [200]
    server.resume()
    back.set()
    await until(fleet.shared)
    fleet.engine.default = Script()
    await serve(fleet, "a")

    fleet.engine.go.clear()
    fleet.engine.default = Script(hold_before=0)
    fleet.engine.seen.clear()
    calls = [fleet[0].post("a") for _ in range(9)]
    await until(lambda: fleet.look()["waiting"] == 8)
    server.pause()
    await until(fleet[0].lost)
    calls += [fleet[0].post("b") for _ in range(8)]
    await until(lambda: fleet.waiting() == 16)
    fleet.engine.go.set()
    assert await answers(calls) == [200] * 17
    assert "".join(body["user"] for body in fleet.engine.seen) == "a" * 9 + "b" * 8
    server.resume()
    back.set()
    await until(fleet.shared)
    await fleet.settled()
