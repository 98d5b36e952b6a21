"""One configuration over gateways whose files differ, and settings as JSON."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from fairness import parse_cost, parse_predictor
from gateway.config import ConfigError, parse_config
from gateway.pools.shared.settings import read_settings, shared_settings_of

from ...conftest import tenant, until
from ...engine import Engine
from .conftest import TENANTS, MakeFleet, answers
from .test_replicas import joined_without_probes, known_rooms, queued, served


def weighing(a: float, b: float) -> list[dict[str, Any]]:
    return [tenant("a", weight=a), tenant("b", weight=b), tenant("limited")]


async def test_the_highest_revision_is_everybodys(make_fleet: MakeFleet, caplog: pytest.LogCaptureFixture) -> None:
    """The first gateway's file has a later revision than the second's, whichever joined first."""
    caplog.set_level(logging.INFO, "gateway")
    fleet = await make_fleet(Engine(hold_before=0), revision=1)
    newer = await make_fleet.join(fleet, {**fleet.config, "revision": 2, "tenants": weighing(4.0, 1.0)})
    await until(lambda: fleet.shared() and newer.gateway.ready())
    await until(lambda: all(member.pool.revision == 2 for member in fleet.members))
    calls = await queued(fleet, [(0, "a"), (1, "b")] * 10)
    fleet.engine.go.set()
    assert await answers(calls) == [200] * 21
    assert served(fleet)[:10].count("a") == 8
    status, body = await fleet[0].readyz()
    assert status == 200
    assert "is revision 1; 2 is in force" in body["pools"]["main"]["stale"]
    assert [await member.metric("fairgate_config_stale") for member in fleet.members] == [1, 1, 0]
    assert any("follows revision 2" in record.message for record in caplog.records)
    await fleet.settled()


async def test_a_gateway_with_an_old_file_follows_when_it_joins(make_fleet: MakeFleet) -> None:
    fleet = await make_fleet(Engine(hold_before=0), gateways=1, revision=2, tenants=weighing(4.0, 1.0))
    older = await make_fleet.join(fleet, {**fleet.config, "revision": 1, "tenants": TENANTS})
    await until(lambda: fleet.shared() and older.gateway.ready() and older.pool.revision == 2)
    assert older.pool.settings.weights["a"] == 4.0
    await fleet.settled()


async def test_the_same_revision_with_another_content_is_told(make_fleet: MakeFleet) -> None:
    fleet = await make_fleet(revision=1)
    other = await make_fleet.join(fleet, {**fleet.config, "tenants": weighing(4.0, 1.0)})
    await until(lambda: fleet.shared() and other.gateway.ready())
    await until(lambda: bool(other.pool.standing().stale))
    assert "different configuration of the same revision 1" in (await other.readyz())[1]["pools"]["main"]["stale"]
    assert (await fleet[0].readyz())[1]["pools"]["main"]["stale"] == ""
    await fleet.settled()


async def test_new_prices_are_agreed_to_the_unit(make_fleet: MakeFleet) -> None:
    """Requests run and wait on a gateway of revision 1 when revision 2 comes with other prices."""
    fleet = await make_fleet(Engine(hold_before=2), worker={"slots": 2}, revision=1)
    calls = [fleet[n % 2].post("ab"[n % 2], stream=True) for n in range(6)]
    await fleet.engine.until(lambda: fleet.engine.active == 2)
    await until(lambda: fleet.look()["waiting"] == 4)
    config = {**fleet.config, "revision": 2}
    config["pools"] = {"main": {**config["pools"]["main"], "cost": "weighted:input=3,output=5"}}
    await make_fleet.join(fleet, config)
    await until(lambda: all(m.pool.revision == 2 and m.pool.mode.name == "shared" for m in fleet.members))
    fleet.engine.go.set()
    assert await answers(calls) == [200] * 6
    await fleet.settled()
    assert sum(m.pool.book.total(who) for m in fleet.members for who in "ab") == 6 * (3 * 7 + 5 * 3) * 1000


@pytest.mark.parametrize(("old", "new"), [("fcfs", "vtc"), ("vtc", "fcfs")])
async def test_a_policy_with_other_levels(make_fleet: MakeFleet, old: str, new: str) -> None:
    """`fcfs` knows no groups and `vtc` does: tickets in flight have other levels under the new revision."""
    tenants = [tenant("a") | {"id": "org/a"}, tenant("b") | {"id": "org/b"}, tenant("limited")]
    settings = {"worker": {"slots": 2}, "pool": {"policy": old}, "tenants": tenants, "revision": 1}
    fleet = await make_fleet(Engine(hold_before=2), **settings)
    calls = [fleet[n % 2].post("ab"[n % 2], stream=True) for n in range(6)]
    await fleet.engine.until(lambda: fleet.engine.active == 2)
    await until(lambda: fleet.look()["waiting"] == 4)
    config = {**fleet.config, "revision": 2}
    config["pools"] = {"main": {**config["pools"]["main"], "policy": new}}
    await make_fleet.join(fleet, config)
    await until(lambda: fleet.shared() and all(member.pool.revision == 2 for member in fleet.members))
    fleet.engine.go.set()
    assert await answers(calls) == [200] * 6
    await fleet.settled()


async def test_a_worker_that_only_the_new_file_names(make_fleet: MakeFleet) -> None:
    """A gateway with the old file never forwards to it, and serves its own requests all the same."""
    fleet = await make_fleet(revision=1)
    extra = await Engine().start()
    try:
        config = {**fleet.config, "revision": 2}
        worker = {"url": extra.url, "slots": 8, "kv_tokens": 10_000}
        workers = [*config["pools"]["main"]["workers"], worker]
        config["pools"] = {"main": {**config["pools"]["main"], "workers": workers}}
        newer = await make_fleet.join(fleet, config)
        await until(lambda: fleet.shared() and len(newer.pool.snapshot()[1]) == 2 and newer.gateway.ready())
        await until(lambda: sum(w["healthy"] for w in fleet.look()["workers"]) == 2)
        assert await answers([fleet[n % 3].post("ab"[n % 2]) for n in range(12)]) == [200] * 12
        await until(lambda: fleet.idle())
    finally:
        for member in fleet.members:
            await member.gateway.close()
        await extra.stop()


async def test_an_old_file_does_not_resize_workers(make_fleet: MakeFleet) -> None:
    fleet = await make_fleet(worker={"slots": 8, "kv_tokens": 8000}, gateways=1, revision=2)
    config = {**fleet.config, "revision": 1}
    worker = {"url": fleet.engine.url, "slots": 64, "kv_tokens": 64_000}
    config["pools"] = {"main": {**config["pools"]["main"], "workers": [worker]}}
    async with joined_without_probes(config) as older:
        await until(lambda: older.revision == 2)
        assert known_rooms(fleet) == [(fleet.engine.url, 8, 8000, True)]


async def test_the_lease_in_force_is_kept(make_fleet: MakeFleet) -> None:
    """The first gateway's file allows a lease of 20 s and a heartbeat of 10; revision 2 has leases of 1.5 s."""
    times = {"lease_s": 20.0, "heartbeat_s": 10.0, "timeout_s": 1.0}
    fleet = await make_fleet(gateways=1, revision=1, store=times)
    older, clock = fleet[0].pool, asyncio.get_running_loop().time
    newer = await make_fleet.join(fleet, {**fleet.config, "revision": 2, "store": {**fleet.config["store"], **SHORT}})
    await until(lambda: newer.pool.mode.name == "shared")
    assert await answers([fleet[0].post("a")]) == [200]
    await until(lambda: older.revision == 2)
    assert older.link.lease_until <= clock() + SHORT["lease_s"]

    def lease() -> float:
        return float(fleet.store.command("ZSCORE", "{fairgate:main}:leases", older.link.name))

    first = lease()
    await until(lambda: lease() > first + 1000 * SHORT["lease_s"])
    assert older.link.joins == 1
    await fleet.settled()


SHORT = {"lease_s": 1.5, "heartbeat_s": 0.1, "timeout_s": 0.5}
BASE: dict[str, Any] = {"tenants": TENANTS, "store": {"url": "redis://x"}}


@pytest.mark.parametrize(
    "pool",
    [
        {},
        {"policy": "drr:500", "predict": "quantile:0.75"},
        {"policy": "rpm:20", "predict": "mean:7"},
        {"policy": "fcfs", "predict": "ewma", "cost": "profiled"},
        {"policy": "rr", "predict": "max_tokens", "cost": "weighted:1,2,0.1"},
        {"policy": "lcf", "cost": {"kind": "piecewise", "input": [[0, 0], [9, 5]], "output": [[0, 1], [4, 9]]}},
    ],
)
def test_settings_survive_their_json(pool: dict[str, Any]) -> None:
    config = parse_config({**BASE, "pools": {"p": {"models": ["m"], "workers": [{"url": "http://w"}], **pool}}})
    section = config.pools["p"]
    settings = shared_settings_of(section, config)
    assert read_settings(settings.text) == settings or settings.policy.spec == section.policy
    cost = parse_cost(section.cost)
    for tokens in ((0, 0, 0), (100, 0, 0), (100, 7, 30), (3, 900, 3)):
        assert settings.cost.service(*tokens) == cost.service(*tokens)
    assert (settings.policy.spec, settings.predict) == (section.policy, section.predict)
    assert type(settings.predictor()) is type(parse_predictor(section.predict))


def test_the_digest_covers_all_but_the_revision() -> None:
    def digest(**more: Any) -> str:
        pools = {"p": {"models": ["m"], "workers": [{"url": "http://w"}], **more.pop("pool", {})}}
        config = parse_config({**BASE, "pools": pools, **more})
        return shared_settings_of(config.pools["p"], config).digest

    assert digest(revision=3) == digest()
    assert len({digest(), digest(tenants=weighing(2.0, 1.0)), digest(pool={"policy": "fcfs"})}) == 3


@pytest.mark.parametrize(
    ("pool", "named"),
    [
        ({"policy": "priority:4"}, "pools.p.policy: cannot be used together with a store: priority classes"),
        ({"policy": "vtc:slack=5"}, "pools.p.policy"),
        ({"adapter_slots": 2}, "pools.p.adapter_slots"),
        ({"adapter_load": 2.0}, "pools.p.adapter_load"),
        ({"ttft_objective_s": 2.0}, "pools.p.ttft_objective_s"),
    ],
)
def test_what_shared_state_has_not_is_refused(pool: dict[str, Any], named: str) -> None:
    pools = {"p": {"models": ["m"], "workers": [{"url": "http://w"}], **pool}}
    parse_config({"tenants": TENANTS, "pools": pools})
    with pytest.raises(ConfigError, match=named):
        parse_config({**BASE, "pools": pools})


@pytest.mark.parametrize(
    ("store", "named"),
    [
        ({"url": "http://:secret@h"}, "store.url: found something else .not shown"),
        ({"url": "redis://:secret@h", "timeout_s": 6.0}, "store.timeout_s: found 6; expected less than store.lease_s"),
        ({"url": "redis://:secret@h", "heartbeat_s": 5.0}, "store.heartbeat_s: found 5; expected less"),
        ({"url": "redis://:secret@h", "lease": 5.0}, "store.lease: unknown key; expected one of url, cluster"),
        ({"url": "redis://:secret@h", "on_store_loss": "open"}, "store.on_store_loss: found .*'local' or 'closed'"),
        ("redis://:secret@h", "store: found something else"),
        ({}, "store.url: missing"),
    ],
)
def test_a_mistake_in_the_store_section_is_named_and_no_secret_told(store: Any, named: str) -> None:
    pools = {"p": {"models": ["m"], "workers": [{"url": "http://w"}]}}
    with pytest.raises(ConfigError, match=named) as raised:
        parse_config({"tenants": TENANTS, "pools": pools, "store": store})
    assert "secret@" not in str(raised.value)
    assert "secret@" not in repr(parse_config({**BASE, "pools": pools, "store": {"url": "redis://:secret@h"}}))
