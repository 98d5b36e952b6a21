"""A kept connection that its engine closes costs no request that may be sent again, and no other is sent twice.

What an engine is shows in its metrics, so a gateway with its probes stands here. What a connection does by itself is in
http/test_worker_connection.py.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Any

from .conftest import MakeHouse, chat, until
from .engine import Script, whole_answer
from .raw_engine import CLOSE, Answer, Asked, RawEngine, event, http

VLLM = "vllm:num_requests_waiting 0\n"


def served(asked: Asked, **then: Any) -> Answer:
    body = event(whole_answer(asked.path, asked.json(), Script()))[6:-2]
    return Answer([http(200, body)], **then)


def lost_if_kept(asked: Asked) -> Answer:
    """Whatever comes over a connection that was used before, by a probe or by a request, is read and not answered."""
    return Answer([], CLOSE) if asked.number else served(asked)


async def statuses(house: Any, requests: int) -> Counter[int]:
    seen = Counter[int]()
    for _ in range(requests):
        async with house.post(chat()) as response:
            seen[response.status] += 1
            await response.read()
    return seen


async def test_an_engine_that_closes_soon_after_each_answer_costs_no_request(make_local_house: MakeHouse) -> None:
    """0.5 to 5 ms after it: a request may be on its way, or the connection be known as closed."""
    chance = Random(1)
    engine: Any = RawEngine(lambda asked: served(asked, close_after=chance.uniform(0.0005, 0.005)), VLLM)
    house = await make_local_house(engine)
    await until(lambda: house.gateway.engines[engine.url].dialect.repeatable)
    clients = (statuses(house, 100) for _ in range(3))
    assert sum(await asyncio.gather(*clients), Counter()) == {200: 300}
    assert house.counter("a") == 300 * (7 + 2 * 3)


async def test_an_engine_that_works_for_who_is_connected_is_asked_once_more(
    make_local_house: MakeHouse,
) -> None:
    engine: Any = RawEngine(lost_if_kept, VLLM)
    house = await make_local_house(engine)
    await until(lambda: house.gateway.engines[engine.url].dialect.repeatable)
    assert await statuses(house, 30) == {200: 30}
    by_request = Counter(asked.request_id for asked in engine.asked)
    assert len(by_request) == 30
    assert max(by_request.values()) == 2, "at most once more, and some were"
    assert house.counter("a") == 30 * (7 + 2 * 3)


async def test_any_other_engine_is_not_asked_again(make_local_house: MakeHouse) -> None:
    """It had the whole request and may have served it."""
    engine: Any = RawEngine(lost_if_kept)
    house = await make_local_house(engine)
    seen = await statuses(house, 30)
    assert len({asked.request_id for asked in engine.asked}) == len(engine.asked) == 30, "one was asked twice"
    lost = sum(1 for asked in engine.asked if asked.number)
    assert lost
    assert seen == {200: 30 - lost, 502: lost}
