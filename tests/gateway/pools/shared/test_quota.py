"""Requests per minute over all gateways together."""

from __future__ import annotations

import asyncio

from fairgate.topology.stores import StoreServer

from ...conftest import tenant, until
from ...engine import Engine
from .conftest import MakeFleet, answers

LIMITED = [tenant("a"), tenant("b"), tenant("limited", rpm=4)]


async def test_the_limit_spans_gateways(make_fleet: MakeFleet) -> None:
    fleet = await make_fleet(tenants=LIMITED)
    assert await answers([fleet[n % 2].post("limited") for n in range(4)]) == [200] * 4
    for member in fleet.members:
        status, body = await member.post("limited")
        assert (status, body["error"]["code"]) == (429, "rate_limit_exceeded")
    assert await answers([fleet[0].post("a")]) == [200]
    await fleet.settled()


async def test_what_the_pool_refuses_does_not_count(make_fleet: MakeFleet) -> None:
    queue = {"queue": {"max_requests_per_tenant": 1}}
    fleet = await make_fleet(Engine(hold_before=0), tenants=LIMITED, pool=queue)
    calls = [fleet[0].post("limited")]
    await fleet.engine.until(lambda: fleet.engine.active == 1)
    calls.append(fleet[1].post("limited"))
    await until(lambda: fleet.look()["waiting"] == 1)
    for _ in range(5):
        status, body = await fleet[0].post("limited")
        assert (status, body["error"]["code"]) == (429, "tenant_queue_full")
    fleet.engine.go.set()
    assert await answers(calls) == [200, 200]
    assert await answers([fleet[1].post("limited")]) == [200], "refused requests used up the limit"
    assert await answers([fleet[1].post("limited")]) == [200]
    assert await answers([fleet[1].post("limited")]) == [429]
    await fleet.settled()


async def test_without_the_store_each_gateway_grants_its_part(make_fleet: MakeFleet, server: StoreServer) -> None:
    fleet = await make_fleet(tenants=LIMITED)
    server.kill()
    await until(lambda: all(member.lost() for member in fleet.members))
    for member in fleet.members:
        statuses = [(await member.post("limited"))[0] for _ in range(3)]
        assert statuses == [200, 200, 429]
    await asyncio.to_thread(server.start)
    await fleet.settled()
