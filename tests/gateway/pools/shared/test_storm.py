"""Everything at once: clients that leave, engines that die and overflow, a store with every kind of trouble. Whatever
the order, each request ends, nothing stays held, and all books agree to the unit."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from fairgate.topology.stores import StoreServer

from ...conftest import until
from ...engine import Engine, Script
from .conftest import Fleet, MakeFleet
from .test_faults import happen

TROUBLES = ["script flush", "flush", "restart", "restart empty", "pause", "kill"]
STATUSES = {200, 429, 502, 503, 504}


def script(chance: random.Random) -> Script:
    kind = chance.randrange(8)
    tokens = {"prompt_tokens": chance.randint(1, 30), "cached_tokens": chance.randint(0, 1)}
    if kind == 0:
        return Script(die_before=chance.randint(0, 3), **tokens)
    if kind == 1:
        return Script(status=503)
    return Script(hold_before=chance.choice([None, 1, 2]), **tokens)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("predict", ["none", "max_tokens", "mean:4"])
async def test_a_storm(make_fleet: MakeFleet, server: StoreServer, seed: int, predict: str) -> None:
    chance = random.Random(f"{seed} {predict}")
    cost = chance.choice(["weighted:1,2", "weighted:1.3,0.7,0.1", "profiled"])
    fleet = await make_fleet(
        Engine(), Engine(), gateways=chance.choice([1, 2, 3]), worker={"slots": 2, "kv_tokens": 400},
        pool={"predict": predict, "cost": cost},
    )  # fmt: skip
    calls: list[asyncio.Task[tuple[int, Any]]] = []
    for _ in range(4):
        for _ in range(8):
            for engine in fleet.engines:
                engine.scripts.append(script(chance))
            calls.append(request(fleet, chance))
        await until(lambda: sum(len(member.pool.held) for member in fleet.members) > 0 or all(c.done() for c in calls))
        for call in chance.sample(calls, 3):
            call.cancel()
        await happen(fleet, server, chance.choice(TROUBLES))
    for engine in fleet.engines:
        engine.go.set()
    async with asyncio.timeout(60):
        results = await asyncio.gather(*calls, return_exceptions=True)
    found = {result[0] for result in results if isinstance(result, tuple)}
    assert found <= STATUSES
    assert 200 in found
    await fleet.settled()


def request(fleet: Fleet, chance: random.Random) -> asyncio.Task[tuple[int, Any]]:
    member = chance.choice(fleet.members)
    return member.post(chance.choice("ab"), stream=chance.random() < 0.5, max_tokens=chance.randint(1, 12))
