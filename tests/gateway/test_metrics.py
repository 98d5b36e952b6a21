"""What Prometheus sees."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.log.writer import LogWriter

from .conftest import House, MakeHouse, chat, tenant, until
from .engine import Engine, Script
from .test_order import order_served

ORDER = ("tenant", "pool", "worker", "outcome")


async def scrape(house: House) -> dict[tuple[str, ...], float]:
    """Samples by name and the values of their labels, in the order above."""
    async with house.session.get(house.url + "/metrics") as response:
        assert response.status == 200
        families = text_string_to_metric_families(await response.text())
    samples = [sample for family in families for sample in family.samples]
    return {(s.name, *(s.labels[name] for name in ORDER if name in s.labels)): s.value for s in samples}


async def test_what_was_served_is_counted(make_house: MakeHouse) -> None:
    house = await make_house(Engine(cached_tokens=2))
    for body in (chat(), chat(stream=True), chat(model="absent"), b"{"):
        async with house.post(body) as response:
            await response.read()
    async with house.post(chat(), key="nobody"):
        pass
    got = await scrape(house)
    assert got["fairgate_requests_total", "a", "main", "ok"] == 2
    assert got["fairgate_requests_total", "a", "", "model_not_found"] == 1
    assert got["fairgate_requests_total", "a", "", "invalid_json"] == 1
    assert got["fairgate_requests_total", "none", "", "invalid_api_key"] == 1
    assert got["fairgate_input_tokens_total", "a", "main"] == 14
    assert got["fairgate_cached_input_tokens_total", "a", "main"] == 4
    assert got["fairgate_output_tokens_total", "a", "main"] == 6
    assert got["fairgate_service_total", "a", "main"] == 14 + 2 * 6
    assert got["fairgate_time_to_first_token_seconds_count", "a", "main"] == 1, "whole answers have none"
    assert got["fairgate_queue_seconds_count", "a", "main"] == 2
    assert not any(name.endswith("_created") for name, *_ in got)


async def test_gauges_of_what_runs_and_of_the_bound(make_house: MakeHouse) -> None:
    house = await make_house(Engine(hold_before=0), worker={"slots": 1})
    calls = [asyncio.ensure_future(house.post(chat()).__aenter__()) for _ in range(3)]
    await house.engine.until(lambda: house.engine.active == 1)
    got = await scrape(house)
    url = house.engine.url
    seen = {("fairgate_queue_requests", "a", "main"): 2, ("fairgate_worker_running_requests", "main", url): 1}
    while any(got.get(name) != value for name, value in seen.items()):
        got = await scrape(house)
    assert got["fairgate_running_requests", "a", "main"] == 1
    assert got["fairgate_worker_healthy", "main", url] == 1
    assert got["fairgate_worker_slots", "main", url] == 1
    assert got["fairgate_worker_reserved_kv_tokens", "main", url] > 0
    assert got["fairgate_counter_gap", "main"] <= got["fairgate_counter_bound", "main"]
    assert got["fairgate_counter_bound", "main"] >= 2 * 10_000
    house.engine.go.set()
    for response in await asyncio.gather(*calls):
        await response.read()


async def test_connections_and_bodies_that_wait_are_gauges(make_house: MakeHouse) -> None:
    house = await make_house(Engine(hold_before=0), worker={"slots": 1})
    calls = [asyncio.ensure_future(house.post(chat()).__aenter__()) for _ in range(3)]
    await house.engine.until(lambda: house.engine.active == 1)
    await until(lambda: house.waiting() == 2)
    got = await scrape(house)
    assert got["fairgate_connections",] == 4  # three that wait, and the one that asks
    assert got["fairgate_queued_bytes",] >= 2 * len(json.dumps(chat()))
    house.engine.go.set()
    for response in await asyncio.gather(*calls):
        await response.read()
    await until(lambda: house.gateway.server.memory.total == 0)
    assert (await scrape(house))["fairgate_queued_bytes",] == 0


async def test_errors_retries_and_overflows_are_counted(make_house: MakeHouse) -> None:
    house = await make_house(Engine(), Engine())
    for script in (Script(status=500), Script(status=503), Script(die_before=2)):
        for engine in house.engines[
            : 2 if script.die_before else 1
        ]:  # a full worker rests, so the last may go to either
            engine.scripts.append(script)
        async with house.post(chat(stream=True)) as response:
            await response.read()
    got = await scrape(house)
    assert got["fairgate_retries_total", "main"] == 2
    assert got["fairgate_overflows_total", "main"] == 1
    assert got["fairgate_upstream_errors_total", "main", "upstream_closed"] == 1


async def test_tenant_labels_are_capped_and_hold_no_key(make_house: MakeHouse) -> None:
    house = await make_house(tenants=[tenant("a"), tenant("b"), tenant("limited")], observe={"max_tenant_labels": 1})
    for key in ("key-a", "key-b", "key-l", "key-x"):
        async with house.post(chat(), key=key) as response:
            await response.read()
    got = await scrape(house)
    tenants = {labels[1] for labels in got if labels[0] == "fairgate_requests_total"}
    assert tenants == {"a", "other", "none"}
    assert got["fairgate_requests_total", "other", "main", "ok"] == 2
    assert not any("key-" in label for labels in got for label in labels)


@pytest.mark.parametrize("wanted", [True, False])
async def test_the_access_log_has_one_line_a_request(make_house: MakeHouse, tmp_path: Path, wanted: bool) -> None:
    log = LogWriter(os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY))
    house = await make_house(log=log, observe={"access_log": wanted})
    for key in ("key-a", "wrong"):
        async with house.post(chat(), key=key) as response:
            await response.read()
    log.close()
    text = (tmp_path / "log").read_text()
    outcomes = [json.loads(line)["outcome"] for line in text.splitlines()]
    assert outcomes == (["ok", "invalid_api_key"] if wanted else [])
    assert not any(secret in text for secret in ("wrong", "key-a", "hello"))


@pytest.mark.parametrize(("policy", "crossed"), [("vtc", False), ("fcfs", True)])
async def test_the_auditor_names_who_is_ahead_and_fcfs_is_the_control(
    make_local_house: MakeHouse, caplog: pytest.LogCaptureFixture, policy: str, crossed: bool
) -> None:
    with caplog.at_level(logging.WARNING, "gateway"):
        house = await make_local_house(
            Engine(hold_before=0), worker={"slots": 1, "kv_tokens": 12}, pool={"policy": policy, "predict": "mean:8"}
        )
        await order_served(house, "aaaaaabbbbbb")
        got = await scrape(house)
    lines = [record.getMessage() for record in caplog.records if "the bound was crossed" in record.getMessage()]
    assert (got["fairgate_bound_crossings_total", "main"] >= 1) is crossed
    assert len(lines) == got["fairgate_bound_crossings_total", "main"]
    assert all(
        "pool main: the bound was crossed: a (counter" in line and "ahead of b (counter" in line for line in lines
    )
