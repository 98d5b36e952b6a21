"""How a gateway comes to share the queue, and back to it: when it tries, how long it waits, and what it tells."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from fairgate.topology.stores import StoreServer
from gateway.pools.shared.protocol import Op, written

from ...conftest import until
from ...engine import Engine, Script
from .conftest import Fleet, MakeFleet, answers
from .test_faults import Wire
from .test_replicas import queued


def watch_joins(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, dict[str, Any]]]:
    """When the first gateway tried to join, and what it said."""
    pool, seen = fleet[0].pool, []
    joining, clock = pool.joining, asyncio.get_running_loop().time

    def watched() -> list[Op]:
        ops = joining()
        seen.append((clock(), written(ops[0])[1]))
        return ops

    monkeypatch.setattr(pool, "joining", watched)
    return seen


def watch_probes(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What the first gateway found when it looked whether the store takes writes."""
    client = fleet[0].gateway.store
    assert client is not None
    takes_writes, found = client.takes_writes, []

    async def watched(key: str, *, within: float) -> bool:
        found.append(await takes_writes(key, within=within))
        return found[-1]

    monkeypatch.setattr(client, "takes_writes", watched)
    return found


REFUSE_WRITES = {
    "no memory": (("CONFIG SET", "maxmemory", 1), ("CONFIG SET", "maxmemory", 0)),
    "read-only": (("REPLICAOF", "127.0.0.1", 1), ("REPLICAOF", "NO", "ONE")),
    "too few replicas": (("CONFIG SET", "min-replicas-to-write", 1), ("CONFIG SET", "min-replicas-to-write", 0)),
}


@pytest.mark.parametrize("mode", ["local", "closed"])
@pytest.mark.parametrize("trouble", REFUSE_WRITES)
async def test_a_store_that_refuses_writes_is_lost_until_it_takes_them(
    make_fleet: MakeFleet, server: StoreServer, monkeypatch: pytest.MonkeyPatch, trouble: str, mode: str
) -> None:
    """It answers reads all the while. Meanwhile no request waits for a join that cannot succeed."""
    fleet = await make_fleet(gateways=1, store={"on_store_loss": mode})
    refuse, recover = REFUSE_WRITES[trouble]
    joins, probes = watch_joins(fleet, monkeypatch), watch_probes(fleet, monkeypatch)
    server.command(*refuse)
    await until(lambda: fleet[0].lost())
    while len(probes) < 5:
        assert await answers([fleet[0].post("a")]) == [200 if mode == "local" else 503]
    assert fleet[0].lost()
    assert not joins
    assert not any(probes)
    server.command(*recover)
    await until(fleet.shared)
    assert len(joins) == 1
    assert await answers([fleet[0].post("a")]) == [200]
    await fleet.settled()


async def test_joins_that_fail_become_rare(
    make_fleet: MakeFleet, server: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that takes writes and yet runs no function."""
    fleet = await make_fleet(gateways=1, store={"heartbeat_s": 0.4, "timeout_s": 0.3})
    joins = watch_joins(fleet, monkeypatch)
    server.command("ACL SETUSER", "default", "-fcall")
    await until(lambda: len(joins) == 6)
    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(joins)]
    assert all(gap >= least for gap, least in zip(gaps, (0.05, 0.1, 0.2, 0.4, 0.4), strict=True))
    server.command("ACL SETUSER", "default", "+fcall")
    await until(fleet.shared)
    await fleet.settled()


async def test_an_error_of_the_gateway_itself_is_not_repeated_without_end(
    make_fleet: MakeFleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = await make_fleet(gateways=1, store={"heartbeat_s": 0.4})
    joins = watch_joins(fleet, monkeypatch)
    with monkeypatch.context() as patched:
        patched.setattr(fleet[0].pool, "applied", lambda reply, ops: 1 // 0)
        await until(lambda: len(joins) == 4)
    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(joins)]
    assert all(gap >= least for gap, least in zip(gaps, (0.05, 0.1, 0.2), strict=True))
    assert "the fault is the gateway's own" in caplog.text
    await until(fleet.shared)
    await fleet.settled()


async def test_the_way_back_tells_of_lifts_and_of_all_charges(
    make_fleet: MakeFleet, server: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """a has been served; alone, a is served again and b, who is new, is lifted to it. The store hears of b's counter
    once, of what a came to, and whether this gateway has ever been there."""
    server.kill()
    fleet = await make_fleet(Engine(), gateways=1, wait=False)
    joins = watch_joins(fleet, monkeypatch)
    await until(lambda: fleet[0].lost() and fleet[0].pool.healthy())
    await asyncio.to_thread(server.start)
    await until(fleet.shared)
    assert (joins[-1][1]["joined"], joins[-1][1]["alone"]) == (False, {})
    assert await answers([fleet[0].post("a")]) == [200]
    await fleet.settled()
    served_once = fleet[0].pool.book.total("a")
    server.pause()
    await until(lambda: fleet[0].lost())
    fleet.engine.scripts.append(Script(hold_before=0))
    calls = [fleet[0].post("a"), fleet[0].post("a")]
    await until(lambda: fleet.running() == fleet.waiting() == 1)
    calls.append(fleet[0].post("b"))
    await until(lambda: fleet.waiting() == 2)
    fleet.engine.go.set()
    assert await answers(calls) == [200] * 3
    server.resume()
    await until(fleet.shared)
    told = joins[-1][1]
    assert told["joined"]
    assert list(told["alone"]) == ["b"]
    assert told["alone"]["b"] > told["book"]["b"] + served_once
    assert told["known"]["shares"]["a"][1] == told["book"]["a"] == 3 * served_once
    fleet[0].pool.link.join_anew()
    await until(lambda: joins[-1][1]["alone"] == {} and fleet.shared())
    await fleet.settled()


async def test_the_way_back_tells_what_a_running_request_is_charged(
    make_fleet: MakeFleet, server: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For all that it has produced, also for tokens of which a law that is told now and then had not heard yet."""
    server.kill()
    fleet = await make_fleet(Engine(hold_before=3), gateways=1, wait=False)
    joins = watch_joins(fleet, monkeypatch)
    await until(lambda: fleet[0].lost() and fleet[0].pool.healthy())
    call = fleet[0].post("a", stream=True)
    await until(lambda: any(held.ticket.produced == 1 for held in fleet[0].pool.held.running()))
    (held,) = fleet[0].pool.held.running()
    fleet[0].pool.charge(held.ticket, 3)
    await asyncio.to_thread(server.start)
    await until(fleet.shared)
    (told,) = joins[-1][1]["running"]
    assert (told["produced"], told["charged"]) == (3, [(7 + 2 * 3) * 1000])
    fleet.engine.go.set()
    assert (await call)[0] == 200
    await fleet.settled()


async def test_a_join_may_take_longer_than_other_calls(make_fleet: MakeFleet, server: StoreServer) -> None:
    """Its answer comes after five times `timeout_s`: nobody goes alone, and once was enough."""
    wire = Wire(server.url)
    wire.go.clear()
    clock = asyncio.get_running_loop().time
    async with wire.listening() as url:
        fleet = await make_fleet(gateways=1, store={"url": url, "timeout_s": 0.1, "lease_s": 20.0}, wait=False)
        await until(lambda: wire.late == 1)
        later = clock() + 0.5
        await until(lambda: fleet[0].pool.mode.name != "joining" or clock() > later)
        assert fleet[0].pool.mode.name == "joining"
        wire.go.set()
        await until(fleet.shared)
        assert fleet[0].pool.link.joins == 1
        await fleet[0].gateway.close()
    assert wire.late == 1, "the join was sent again"


async def test_a_reader_of_grants_that_fails_joins_anew(
    make_fleet: MakeFleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A grant that cannot be understood is said so in the log; the ticket has its turn all the same."""
    fleet = await make_fleet(Engine(hold_before=0))
    calls = await queued(fleet, [(1, "a")])
    with monkeypatch.context() as patched:
        patched.setattr("gateway.pools.shared.grants.read_decision", lambda text: 1 // 0)
        fleet.engine.go.set()
        await until(lambda: fleet[1].pool.link.joins == 2)
    assert await answers(calls) == [200, 200]
    assert "grants cannot be read" in caplog.text
    await fleet.settled()


async def test_a_gateway_that_ends_while_it_joins_leaves(make_fleet: MakeFleet, server: StoreServer) -> None:
    """The store has applied its join, and the answer is still on its way when the gateway ends."""
    wire = Wire(server.url)
    wire.go.clear()
    async with wire.listening() as url:
        fleet = await make_fleet(gateways=1, store={"url": url, "timeout_s": 10.0, "lease_s": 20.0}, wait=False)
        await until(lambda: wire.late == 1)
        assert server.command("ZCARD", "{fairgate:main}:leases") == 1
        ending = asyncio.create_task(fleet[0].gateway.close())
        await until(lambda: fleet[0].pool.link._leaving)
        wire.go.set()
        await ending
    assert server.command("ZCARD", "{fairgate:main}:leases") == 0
