"""One test for each refusal: status, type, code, and the headers that tell a client when to come back."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from fairness import BUILD

from .conftest import House, MakeHouse, chat, tenant, until
from .engine import Engine, Script
from .raw_engine import Answer, RawEngine, http


async def refused(house: House, status: int, code: str, kind: str, *args: Any, **more: Any) -> aiohttp.ClientResponse:
    async with house.post(*args, **more) as response:
        body = await response.json()
        assert response.status == status, body
        assert body["error"]["code"] == code
        assert body["error"]["type"] == kind
        assert body["error"]["message"]
        return response  # type: ignore[no-any-return]


def comes_back(response: aiohttp.ClientResponse) -> None:
    assert int(response.headers["Retry-After"]) >= 1
    assert int(response.headers["retry-after-ms"]) >= 1
    assert int(response.headers["retry-after-ms"]) <= 1000 * int(response.headers["Retry-After"])


@pytest.mark.parametrize(("key", "code"), [(None, "missing_api_key"), ("wrong", "invalid_api_key")])
async def test_401(make_house: MakeHouse, key: str | None, code: str) -> None:
    await refused(await make_house(), 401, code, "authentication_error", chat(), key=key)


async def test_the_tenant_is_never_taken_from_a_header(make_house: MakeHouse) -> None:
    house = await make_house()
    for name in ("x-tenant", "x-fairgate-tenant", "x-user-id"):
        await refused(house, 401, "missing_api_key", "authentication_error", chat(), key=None, headers={name: "a"})


async def test_the_key_may_come_as_x_api_key(make_house: MakeHouse) -> None:
    house = await make_house()
    async with house.post(chat(), key=None, headers={"x-api-key": "key-a"}) as response:
        assert response.status == 200


@pytest.mark.parametrize(
    "body",
    [chat(model="other"), chat(model=None), chat(model=""), {"messages": []}],
    ids=["unknown", "null", "empty", "missing"],
)
async def test_404_model(make_house: MakeHouse, body: Any) -> None:
    await refused(await make_house(), 404, "model_not_found", "invalid_request_error", body)


async def test_a_model_the_tenant_may_not_use_looks_like_one_that_does_not_exist(make_house: MakeHouse) -> None:
    house = await make_house(pool={"models": ["m", "secret"]}, tenants=[tenant("a", models=["m"]), tenant("b")])
    texts = []
    for model in ("secret", "absent"):
        async with house.post(chat(model=model)) as response:
            assert response.status == 404
            texts.append((await response.text()).replace(model, "MODEL"))
    assert texts[0] == texts[1]
    async with house.post(chat(model="secret"), key="key-b") as response:
        assert response.status == 200


async def test_404_path_and_405_method(make_house: MakeHouse) -> None:
    house = await make_house()
    await refused(house, 404, "unknown_url", "invalid_request_error", chat(), path="/v1/nothing")
    async with house.session.get(house.url + "/v1/chat/completions") as response:
        assert response.status == 405
        assert response.headers["Allow"] == "POST"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b'{"model": "m",, }', "line 1 column 15"),
        (b"", "line 1 column 1"),
        (b"[1]", "expected an object"),
        (b'{"model": "\xff"}', "byte 11"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"model": "m", "temperature": NaN}', "NaN"),
        (b'{"model": "m", "temperature": 1e999}', "too large"),
    ],
)
async def test_400_malformed_json_names_the_place(make_house: MakeHouse, body: bytes, named: str) -> None:
    house = await make_house()
    async with house.post(body) as response:
        assert response.status == 400
        error = (await response.json())["error"]
    assert error["code"] == "invalid_json"
    assert named in error["message"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stream", "yes"),
        ("n", 0),
        ("max_tokens", -1),
        ("max_tokens", "3"),
        ("max_tokens", True),
        ("model", 3),
        ("stream_options", 1),
        ("n", 10**12),
    ],
)
async def test_400_a_field_the_gateway_must_understand(make_house: MakeHouse, field: str, value: Any) -> None:
    house = await make_house()
    async with house.post(chat(**{field: value})) as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == field


async def test_400_larger_than_the_largest_worker(make_house: MakeHouse) -> None:
    house = await make_house(worker={"kv_tokens": 10})
    long = chat(messages=[{"role": "user", "content": "x" * 400}])
    await refused(house, 400, "context_length_exceeded", "invalid_request_error", long)


async def test_413_by_length_and_by_what_arrives(make_house: MakeHouse) -> None:
    house = await make_house(limits={"max_body_bytes": 1000})
    await refused(house, 413, "body_too_large", "invalid_request_error", b"x" * 2000)

    async def pieces() -> Any:
        for _ in range(4):
            yield b"x" * 500

    async with house.session.post(
        house.url + "/v1/completions", data=pieces(), headers={"x-api-key": "key-a"}
    ) as response:
        assert response.status == 413


async def test_429_what_cannot_start_in_time(make_local_house: MakeHouse) -> None:
    """After three turns a hundred seconds apart, a request behind another cannot meet an objective of one second."""
    house = await make_local_house(Engine(hold_before=0), worker={"slots": 1}, pool={"ttft_objective_s": 1.0})
    held = [asyncio.ensure_future(house.post(chat()).__aenter__())]
    await house.engine.until(lambda: house.engine.active == 1)
    held.append(asyncio.ensure_future(house.post(chat()).__aenter__()))
    await until(lambda: house.waiting("a") == 1)
    objective = house.pool.scheduler.objective
    assert objective is not None
    objective.interval_s = 100.0
    comes_back(await refused(house, 429, "ttft_objective", "rate_limit_error", chat()))
    assert objective.turned_away == 1
    objective.interval_s = 0.0
    house.engine.go.set()
    for response in await asyncio.gather(*held):
        await response.read()


async def test_an_objective_learns_of_first_tokens_from_streams_alone(make_local_house: MakeHouse) -> None:
    house = await make_local_house(pool={"ttft_objective_s": 1.0})
    granted: list[bool] = []
    house.pool.on_grant = lambda grant: granted.append(grant.ticket.streams)
    for stream in (True, False):
        async with house.post(chat(stream=stream)) as response:
            assert response.status == 200
            await response.read()
    assert granted == [True, False]


async def test_429_tenant_and_pool_queue(make_house: MakeHouse) -> None:
    house = await make_house(
        Engine(hold_before=0),
        worker={"slots": 1},
        pool={"queue": {"max_requests": 2, "max_requests_per_tenant": 1}},
        tenants=[tenant("a"), tenant("b"), tenant("limited", max_queued=5)],
    )
    held = [asyncio.ensure_future(house.post(chat()).__aenter__())]
    await house.engine.until(lambda: house.engine.active == 1)
    held.append(asyncio.ensure_future(house.post(chat()).__aenter__()))
    await until(lambda: house.waiting("a") == 1)
    comes_back(await refused(house, 429, "tenant_queue_full", "rate_limit_error", chat()))
    held.append(asyncio.ensure_future(house.post(chat(), key="key-b").__aenter__()))
    await until(lambda: house.waiting() == 2)
    comes_back(await refused(house, 429, "pool_queue_full", "rate_limit_error", chat(), key="key-l"))
    house.engine.go.set()
    for response in await asyncio.gather(*held):
        assert response.status == 200
        response.release()


async def test_bodies_that_wait_are_bounded_per_tenant_429_and_in_all_503(make_house: MakeHouse) -> None:
    """What an engine works on no longer counts, and what was refused never did."""
    limits = {"max_body_bytes": 4000, "max_queued_bytes_per_tenant": 5000, "max_queued_bytes": 7000}
    house = await make_house(Engine(hold_before=2), limits=limits, worker={"slots": 1})
    memory = house.gateway.server.memory
    big = {"messages": [{"role": "user", "content": "x" * 2900}]}
    async with house.post(chat(stream=True)):  # it has begun to answer
        assert memory.total == 0
        waiting = [asyncio.ensure_future(house.post(chat(**big), key=key).__aenter__()) for key in ("key-a", "key-b")]
        await until(lambda: house.waiting() == 2)
        comes_back(await refused(house, 429, "queued_bytes_exceeded", "rate_limit_error", chat(**big)))
        medium = {"messages": [{"role": "user", "content": "x" * 1500}]}
        comes_back(await refused(house, 503, "gateway_memory_full", "overloaded_error", chat(**medium), key="key-b"))
        assert memory.of("a") + memory.of("b") == memory.total > 5800
        house.engine.go.set()
    for answer in await asyncio.gather(*waiting):
        assert answer.status == 200
        answer.release()
    await until(lambda: memory.total == 0)
    memory.check_integrity()


@pytest.mark.parametrize("framing", [b"Content-Length: 4000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nfa0\r\n"])
async def test_bodies_count_from_their_first_byte(make_local_house: MakeHouse, framing: bytes) -> None:
    """Else a tenant with many connections could fill the memory with bodies that it never ends."""
    limits = {"max_body_bytes": 4000, "max_queued_bytes_per_tenant": 5000, "max_queued_bytes": 7000}
    house = await make_local_house(limits=limits)
    memory = house.gateway.server.memory
    reader, writer = await asyncio.open_connection("127.0.0.1", house.gateway.port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nx-api-key: key-a\r\n" + framing + b"{" * 2900)
    await until(lambda: memory.of("a") == 2900)
    big = {"messages": [{"role": "user", "content": "x" * 2900}]}
    comes_back(await refused(house, 429, "queued_bytes_exceeded", "rate_limit_error", chat(**big)))
    assert memory.of("a") == 2900, "what was refused still counts"
    async with house.post(chat(**big), key="key-b") as response:
        assert response.status == 200
    writer.write(b"{" * 1100)  # whole, and no JSON
    if b"chunked" in framing:
        writer.write(b"\r\n0\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 400")
    assert memory.total == 0
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nx-api-key: key-a\r\n" + framing + b"{" * 2900)
    await until(lambda: memory.of("a") == 2900)
    writer.close()
    await until(lambda: memory.total == 0)
    memory.check_integrity()


async def test_429_requests_per_minute(make_house: MakeHouse) -> None:
    house = await make_house(tenants=[tenant("limited", rpm=2), tenant("a")])
    for left in ("1", "0"):
        async with house.post(chat(), key="key-l") as response:
            assert response.status == 200
            assert response.headers["x-ratelimit-limit-requests"] == "2"
            assert response.headers["x-ratelimit-remaining-requests"] == left
    response = await refused(house, 429, "rate_limit_exceeded", "rate_limit_error", chat(), key="key-l")
    comes_back(response)
    assert 50 <= int(response.headers["Retry-After"]) <= 60
    assert response.headers["x-ratelimit-remaining-requests"] == "0"
    async with house.post(chat()) as response:
        assert response.status == 200
        assert "x-ratelimit-limit-requests" not in response.headers


async def test_429_by_the_rpm_policy(make_house: MakeHouse) -> None:
    house = await make_house(pool={"policy": "rpm:1"})
    async with house.post(chat()) as response:
        assert response.status == 200
    comes_back(await refused(house, 429, "rate_limit_exceeded", "rate_limit_error", chat()))


async def test_503_no_healthy_worker_and_readiness(make_house: MakeHouse) -> None:
    engine = Engine()
    engine.alive = False
    house = await make_house(engine, wait=False)
    comes_back(await refused(house, 503, "no_healthy_worker", "overloaded_error", chat()))
    for path, status in (("/healthz", 200), ("/readyz", 503)):
        async with house.session.get(house.url + path) as response:
            assert response.status == status
    engine.alive = True
    await until(house.gateway.ready)
    async with house.session.get(house.url + "/readyz") as response:
        assert response.status == 200
        assert (await response.json())["build"] == BUILD


async def test_503_draining(make_house: MakeHouse) -> None:
    house = await make_house()
    assert await house.gateway.drain()
    comes_back(await refused(house, 503, "draining", "overloaded_error", chat()))


async def test_504_queue_timeout(make_house: MakeHouse) -> None:
    house = await make_house(Engine(hold_before=0), worker={"slots": 1}, pool={"queue": {"timeout_s": 0.1}})
    first = asyncio.ensure_future(house.post(chat()).__aenter__())
    await house.engine.until(lambda: house.engine.active == 1)
    comes_back(await refused(house, 504, "queue_timeout", "timeout_error", chat()))
    assert house.waiting() == 0
    house.engine.go.set()
    (await first).release()


async def test_502_when_the_only_engine_breaks_down(make_house: MakeHouse) -> None:
    house = await make_house(Engine(die_before=0))
    await refused(house, 502, "upstream_closed", "upstream_error", chat())
    assert house.counter("a") == 0, "a request that produced nothing was charged"


async def test_an_engines_own_refusal_is_handed_on_and_not_charged(make_house: MakeHouse) -> None:
    house = await make_house()
    body = {"error": {"message": "temperature must be >= 0", "type": "BadRequestError", "code": 400}}
    house.engine.scripts.append(Script(status=400, body=body))
    async with house.post(chat(temperature=-1)) as response:
        assert response.status == 400
        assert await response.json() == body
    assert house.counter("a") == 0


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_body_may_be_nested_deeply(make_house: MakeHouse, streamed: bool) -> None:
    """It is for the engine to say what it makes of that."""
    engine: Any = RawEngine(lambda asked: Answer([http(400, b"{}")]))
    house = await make_house(engine)
    nested = "[" * 1000 + "]" * 1000
    options = f'"stream_options":{{"include_usage":true,"x":{nested}}}'
    body = f'{{"model":"m","stream":{str(streamed).lower()},{options},"messages":{nested}}}'
    async with house.post(body.encode()) as response:
        assert (response.status, await response.read()) == (400, b"{}")
    assert len(engine.asked) == 1
