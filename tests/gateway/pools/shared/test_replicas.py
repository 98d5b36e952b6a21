"""One fair share over several gateways, each test over every kind of server that is to be had."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from gateway.app import build
from gateway.config.load import parse_config
from gateway.pools.shared.pool import SharedPool

from ...conftest import until
from ...engine import Engine, Script
from .conftest import TENANTS, Fleet, MakeFleet, answers


async def queued(fleet: Fleet, arrivals: list[tuple[int, str]]) -> list[asyncio.Task[tuple[int, object]]]:
    """Requests (gateway, tenant) in this order, behind one that the engine holds."""
    calls = [fleet[0].post("limited")]
    await fleet.engine.until(lambda: fleet.engine.active == 1)
    for count, (number, who) in enumerate(arrivals, start=1):
        calls.append(fleet[number].post(who))
        await until(lambda count=count: fleet.look()["waiting"] == count)
    return calls


def served(fleet: Fleet) -> str:
    return "".join(body["user"] for body in fleet.engine.seen[1:])


async def test_tenants_of_different_gateways_take_turns(make_fleet: MakeFleet) -> None:
    """All of a's requests come to one gateway before any of b's come to the other."""
    fleet = await make_fleet(Engine(hold_before=0))
    calls = await queued(fleet, [(0, "a")] * 6 + [(1, "b")] * 6)
    fleet.engine.go.set()
    assert await answers(calls) == [200] * 13
    assert served(fleet) == "ab" * 6
    assert fleet.engine.most_active == 1, "the gateways together gave the engine more than its slots"
    await fleet.settled()


async def test_weights_hold_over_all_gateways(make_fleet: MakeFleet) -> None:
    """4 : 1, with the light tenant's gateway as busy as the heavy one's: each gateway alone would give 1 : 1."""
    tenants = [{**t, "weight": w} for t, w in zip(TENANTS, (4.0, 1.0, 1.0), strict=True)]
    fleet = await make_fleet(Engine(hold_before=0), tenants=tenants)
    calls = await queued(fleet, [(0, "a"), (1, "b")] * 10)
    fleet.engine.go.set()
    assert await answers(calls) == [200] * 21
    assert served(fleet)[:10].count("a") == 8
    await fleet.settled()


async def test_the_control_serves_in_the_order_of_arrival(make_fleet: MakeFleet) -> None:
    fleet = await make_fleet(Engine(hold_before=0), pool={"policy": "fcfs"})
    calls = await queued(fleet, [(0, "a")] * 6 + [(1, "b")] * 6)
    fleet.engine.go.set()
    assert await answers(calls) == [200] * 13
    assert served(fleet) == "aaaaaabbbbbb"
    await fleet.settled()


@pytest.mark.parametrize("predict", ["none", "max_tokens"])
async def test_streams_through_both_at_once(make_fleet: MakeFleet, predict: str) -> None:
    fleet = await make_fleet(Engine(prompt_tokens=9, cached_tokens=4), worker={"slots": 3}, pool={"predict": predict})
    calls = [fleet[n % 2].post(who, stream=True, max_tokens=1 + n % 5) for n, who in enumerate("aab" * 10)]
    assert await answers(calls) == [200] * 30
    assert fleet.engine.most_active <= 3
    await fleet.settled()
    charged = {who: sum(m.pool.book.total(who) for m in fleet.members) for who in "ab"}
    lengths = {who: [1 + n % 5 for n, name in enumerate("aab" * 10) if name == who] for who in "ab"}
    assert charged == {who: sum(9 + 2 * length for length in lengths[who]) * 1000 for who in "ab"}


async def test_a_client_that_leaves_takes_its_ticket_out_of_the_store(make_fleet: MakeFleet) -> None:
    fleet = await make_fleet(Engine(hold_before=0))
    calls = await queued(fleet, [(1, "a"), (1, "b")])
    calls[1].cancel()
    await until(lambda: fleet.look()["waiting"] == 1)
    fleet.engine.go.set()
    assert await answers([calls[0], calls[2]]) == [200, 200]
    assert served(fleet) == "b"
    await fleet.settled()


async def test_a_gateway_that_ends_leaves_nothing(make_fleet: MakeFleet) -> None:
    fleet = await make_fleet(Engine(hold_before=0))
    calls = await queued(fleet, [(1, "a")])
    leaving = fleet.members.pop()
    await leaving.gateway.close()
    assert (await calls[1])[0] == 503
    look = fleet.look()
    assert (look["waiting"], look["running"]) == (0, 1)
    assert fleet.store.command("ZCARD", "{fairgate:main}:leases") == 1
    fleet.engine.go.set()
    assert await answers(calls[:1]) == [200]
    await fleet.settled()


async def test_what_was_charged_outlives_the_gateway_that_charged_it(make_fleet: MakeFleet) -> None:
    fleet = await make_fleet()
    assert await answers([fleet[1].post("a") for _ in range(3)]) == [200] * 3
    await fleet.settled()
    fleet.engine.scripts.append(Script(hold_before=1))
    call = fleet[0].post("a")
    await until(lambda: fleet.running() == 1)
    before = fleet.look()["shares"]["a"]["counter"]
    await fleet.members.pop().gateway.close()
    assert fleet.look()["shares"]["a"]["counter"] == before
    fleet.engine.go.set()
    assert await answers([call]) == [200]
    await fleet.settled()


async def test_an_idle_fleet_only_beats(make_fleet: MakeFleet) -> None:
    """No polling: two gateways with a heartbeat a minute make no call while nothing happens."""
    fleet = await make_fleet(store={"heartbeat_s": 20.0, "lease_s": 60.0}, health={"interval_s": 0.01})
    assert await answers([fleet[0].post("a"), fleet[1].post("b")]) == [200, 200]
    await fleet.settled()

    def calls() -> int:
        return int(fleet.store.command("INFO", "commandstats")["cmdstat_fcall"]["calls"])

    before = calls()
    probes = fleet.engine.probes
    await until(lambda: fleet.engine.probes >= probes + 40)
    assert calls() == before


def known_rooms(fleet: Fleet) -> list[tuple[Any, ...]]:
    return [(w["id"], w["slots"], w["tokens"], w["healthy"]) for w in fleet.look()["workers"]]


@asynccontextmanager
async def joined_without_probes(config: dict[str, Any]) -> AsyncIterator[SharedPool]:
    """A gateway that shares the queue and has not looked at the workers yet."""
    gateway = build(parse_config(config))
    gateway.probers.clear()
    await gateway.start()
    try:
        pool = cast(SharedPool, gateway.pools["main"])
        await until(lambda: pool.mode.name == "shared")
        yield pool
    finally:
        await gateway.close()


async def test_who_joins_says_nothing_of_workers_it_has_not_seen(make_fleet: MakeFleet) -> None:
    """A worker that others found well, and larger than the file assumes, stays so; what the newcomer finds counts."""
    engine = Engine()
    engine.metrics = 'vllm:cache_config_info{block_size="16",num_gpu_blocks="4000",max_num_seqs="3"} 1.0\n'
    fleet = await make_fleet(engine, worker={"slots": None, "kv_tokens": None}, gateways=1, health={"interval_s": 60.0})
    await until(lambda: known_rooms(fleet) == [(engine.url, 3, 64_000, True)])
    async with joined_without_probes(fleet.config) as newcomer:
        assert known_rooms(fleet) == [(engine.url, 3, 64_000, True)]
        assert not newcomer.healthy()
        newcomer.set_size(engine.url, 32, 32_768)  # its engine told it nothing: this is what a file without sizes means
        newcomer.set_health(engine.url, True)
        await until(lambda: not newcomer.link._flight and not newcomer.link._outbox.due)
        assert known_rooms(fleet) == [(engine.url, 3, 64_000, True)]
        newcomer.set_health(engine.url, False)
        newcomer.set_size(engine.url, 5, 32_768)
        await until(lambda: known_rooms(fleet) == [(engine.url, 5, 64_000, False)])
