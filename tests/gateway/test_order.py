"""Who is next, through real HTTP and a worker with one slot; FCFS is the control that must fail."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from .conftest import House, MakeHouse, chat, tenant, until
from .engine import Engine

KEYS_OF_TWO = {"a": "key-a", "b": "key-b"}


async def order_served(house: House, arrivals: str, keys: Mapping[str, str] = KEYS_OF_TWO) -> str:
    """Let all of `arrivals` (a tenant each) queue behind a held request of tenant a; who was served, in order."""
    calls = [asyncio.ensure_future(house.post(chat(user="a")).__aenter__())]
    await house.engine.until(lambda: house.engine.active == 1)
    for count, name in enumerate(arrivals, start=1):
        calls.append(asyncio.ensure_future(house.post(chat(user=name), key=keys[name]).__aenter__()))
        await until(lambda count=count: house.waiting() == count)
        house.check()
        assert house.gap() <= house.bound()
    house.engine.go.set()
    for response in await asyncio.gather(*calls):
        assert response.status == 200
        await response.read()
    return "".join(body["user"] for body in house.engine.seen)[1:]


def most_ahead(order: str, weight_a: int = 1) -> int:
    """How far tenant a's served requests, per weight, were ever ahead of b's."""
    return max(order[:k].count("a") - weight_a * order[:k].count("b") for k in range(len(order) // 2))


async def test_vtc_alternates_whatever_the_order_of_arrival(make_house: MakeHouse) -> None:
    house = await make_house(Engine(hold_before=0), worker={"slots": 1})
    order = await order_served(house, "aaaaaabbbbbb")
    assert house.engine.most_active == 1
    assert most_ahead(order) <= 1
    assert order[:6].count("b") >= 3


async def test_vtc_serves_by_weight(make_house: MakeHouse) -> None:
    house = await make_house(
        Engine(hold_before=0), worker={"slots": 1}, tenants=[tenant("a", weight=3.0), tenant("b", weight=1.0)]
    )
    order = await order_served(house, "b" * 8 + "a" * 8)
    assert order[:8].count("a") == 6


async def test_a_tree_of_shares_serves_groups_before_their_members(make_house: MakeHouse) -> None:
    """`org` has two busy tenants and weight 1, `b` is alone and has weight 1: half for `b`, a quarter for each."""
    tenants = [tenant("a") | {"id": "org/a"}, tenant("limited") | {"id": "org/c"}, tenant("b")]
    house = await make_house(Engine(hold_before=0), worker={"slots": 1}, tenants=tenants)
    order = await order_served(house, "a" * 6 + "c" * 6 + "b" * 12, {"a": "key-a", "c": "key-l", "b": "key-b"})
    half = order[:12]
    assert (half.count("b"), half.count("a"), half.count("c")) in {(6, 3, 3), (7, 3, 2), (7, 2, 3), (6, 2, 4)}


async def test_a_group_has_a_weight(make_house: MakeHouse) -> None:
    tenants = [tenant("a") | {"id": "org/a"}, tenant("b")]
    groups = [{"id": "org", "weight": 3.0}]
    house = await make_house(Engine(hold_before=0), worker={"slots": 1}, tenants=tenants, groups=groups)
    order = await order_served(house, "b" * 8 + "a" * 8)
    assert order[:8].count("a") == 6


async def test_classes_go_first(make_local_house: MakeHouse) -> None:
    tenants = [tenant("a", priority=1), tenant("b", priority=0)]
    house = await make_local_house(
        Engine(hold_before=0), worker={"slots": 1}, pool={"policy": "priority:100"}, tenants=tenants
    )
    assert await order_served(house, "aaabbb") == "bbbaaa"


@pytest.mark.parametrize(("policy", "passed"), [("vtc:slack=1000", True), ("vtc", False)])
async def test_a_head_that_lacks_an_adapter_slot_is_passed_within_the_slack_only(
    make_local_house: MakeHouse, policy: str, passed: bool
) -> None:
    house = await make_local_house(
        Engine(hold_before=0), worker={"slots": 2}, pool={"policy": policy, "adapters": ["x", "y"], "adapter_slots": 1}
    )
    calls = []

    async def post(model: str, key: str, waiting: int) -> None:
        calls.append(asyncio.ensure_future(house.post(chat(model=model), key=key).__aenter__()))
        await until(lambda: (house.engine.active, house.waiting()) == (len(calls) - waiting, waiting))

    await post("x", "key-a", 0)
    await post("y", "key-a", 1)
    await post("x", "key-b", 1 if passed else 2)
    house.check()
    house.engine.go.set()
    for response in await asyncio.gather(*calls):
        assert response.status == 200
        await response.read()


@pytest.mark.parametrize("policy", ["fcfs"])
async def test_the_control_breaks_it(make_house: MakeHouse, policy: str) -> None:
    house = await make_house(Engine(hold_before=0), worker={"slots": 1}, pool={"policy": policy})
    order = await order_served(house, "aaaaaabbbbbb")
    assert order == "aaaaaabbbbbb"
    assert most_ahead(order) == 5


async def test_a_prediction_that_does_not_fit_blocks_nobody_for_ever(make_house: MakeHouse) -> None:
    """The head waits for room rather than being passed; all are served, and never more at once than fit."""
    house = await make_house(worker={"slots": 8, "kv_tokens": 100}, pool={"predict": "max_tokens"})
    calls = [house.post(chat(max_tokens=size, user="a")) for size in (80, 10, 80, 10)]
    for response in await asyncio.gather(*(call.__aenter__() for call in calls)):
        assert response.status == 200
        await response.read()


async def test_room_is_held_while_a_request_runs_and_given_back(make_house: MakeHouse) -> None:
    house = await make_house(Engine(hold_before=0), pool={"predict": "max_tokens"})
    call = asyncio.ensure_future(house.post(chat(max_tokens=50)).__aenter__())
    await house.engine.until(lambda: house.engine.active == 1)
    worker = house.worker()
    assert (worker.running, worker.reserved) == (1, 7 + 50)
    house.engine.go.set()
    await (await call).read()
    await until(lambda: house.worker().reserved == 0)


async def test_requests_that_wait_inside_the_engine_lower_the_fall_back(make_house: MakeHouse) -> None:
    engine = Engine(hold_before=0)
    house = await make_house(engine, worker={"slots": None, "kv_tokens": None})
    calls = [asyncio.ensure_future(house.post(chat()).__aenter__()) for _ in range(10)]
    await engine.until(lambda: engine.active == 10)
    engine.metrics = 'vllm:num_requests_waiting{model_name="m"} 6.0\n'
    await until(lambda: house.worker().slots == 10 - 6 + 1)
    engine.go.set()
    for response in await asyncio.gather(*calls):
        await response.read()
