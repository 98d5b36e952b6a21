"""Engines that fail, overflow, disappear and come back."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest
from aiohttp import web

from .conftest import MakeHouse, chat, until
from .engine import Engine, Script
from .test_serve import events


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(
    "failure",
    [
        Script(die_before=0),
        Script(die_before=1),
        Script(error_before=1),
        Script(status=500),
        Script(raw=b"data: {\n\n"),
    ],
    ids=["no head", "no event", "error event first", "status 500", "not JSON"],
)
async def test_before_the_first_event_another_worker_serves(
    make_house: MakeHouse, failure: Script, streamed: bool
) -> None:
    house = await make_house(Engine(), Engine())
    house.engines[0].scripts.append(failure)
    async with house.post(chat(stream=streamed)) as response:
        assert response.status == 200
        text = await response.text()
    assert [len(engine.seen) for engine in house.engines] == [1, 1]
    assert text.count("x") >= 3
    assert "error" not in text
    assert house.counter("a") == 7 + 2 * 3, "a retry was charged twice"


async def test_a_retry_goes_to_another_worker(make_house: MakeHouse) -> None:
    house = await make_house(Engine(die_before=0), Engine())
    for _ in range(3):
        async with house.post(chat()) as response:
            assert response.status == 200
    assert len(house.engines[1].seen) == 3
    assert house.counter("a") == 3 * (7 + 2 * 3)


async def test_it_is_retried_once_only(make_house: MakeHouse) -> None:
    house = await make_house(*(Engine(die_before=0) for _ in range(3)))
    async with house.post(chat()) as response:
        assert response.status == 502
    assert sum(len(engine.seen) for engine in house.engines) == 2


@pytest.mark.parametrize("failure", ["die_before", "error_before"])
async def test_after_the_first_event_a_stream_ends_with_an_error_event(make_house: MakeHouse, failure: str) -> None:
    house = await make_house(Engine(**{failure: 3}), Engine(**{failure: 3}))
    async with house.post(chat(stream=True)) as response:
        assert response.status == 200
        got = events(await response.text())
    assert got[-1]["error"]["code"] in ("upstream_closed", "upstream_error")
    assert "[DONE]" not in got
    assert sum(len(engine.seen) for engine in house.engines) == 1, "a stream that had begun was retried"
    assert house.counter("a") == 7 + 2 * 1, "what was seen stays charged"


async def test_after_an_error_event_the_connection_carries_the_next_request(make_local_house: MakeHouse) -> None:
    """The answer was told to be over; a client that keeps its connection must not find it closed under its next one."""
    house = await make_local_house(Engine(die_before=1))
    house.engine.scripts.extend([Script(die_before=2), Script()])
    reader, writer = await asyncio.open_connection("127.0.0.1", house.gateway.port)
    for ending in (b"upstream_closed", b"[DONE]"):
        body = json.dumps(chat(stream=True)).encode()
        fields = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nx-api-key: key-a\r\nContent-Length: %d\r\n\r\n"
        writer.write(fields % len(body) + body)
        answer = await reader.readuntil(b"\r\n0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert ending in answer
    writer.close()


class Deaf(Engine):
    """Takes no connection: those that it has not accepted fill its queue."""

    async def listen(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.port = self.listener.getsockname()[1]
        self.callers = [socket.socket() for _ in range(4)]
        for caller in self.callers:
            caller.setblocking(False)
            caller.connect_ex(("127.0.0.1", self.port))

    async def stop(self) -> None:
        for one in (self.listener, *self.callers):
            one.close()
        await super().stop()


async def test_who_leaves_while_a_worker_is_called_pays_nothing(make_local_house: MakeHouse) -> None:
    house = await make_local_house(Deaf(), wait=False, health={"timeout_s": 3600}, timeouts={"connect_s": 3600})
    house.pool.set_health(house.engine.url, True)
    call = asyncio.ensure_future(house.post(chat()).__aenter__())
    await until(lambda: house.worker().running == 1)
    call.cancel()
    await until(house.pool.idle)
    assert house.pool.scheduler.snapshot().tenants == {} or house.counter("a") == 0


async def test_a_whole_answer_that_breaks_off_becomes_502(make_house: MakeHouse) -> None:
    house = await make_house(Engine(die_before=3))
    async with house.post(chat()) as response:
        assert response.status == 502
        assert (await response.json())["error"]["code"] == "upstream_closed"


async def test_an_engine_that_falls_silent_is_given_up(make_house: MakeHouse) -> None:
    house = await make_house(Engine(hold_before=2), timeouts={"idle_s": 0.1, "kept_s": 0, "first_byte_s": 3000.0})
    async with house.post(chat(stream=True)) as response:
        assert events(await response.text())[-1]["error"]["code"] == "upstream_timeout"
    await house.engine.until(lambda: house.engine.aborted == 1)


async def test_an_engine_that_never_begins_is_given_up(make_house: MakeHouse) -> None:
    house = await make_house(Engine(hold_before=1), timeouts={"first_byte_s": 0.1})
    async with house.post(chat(stream=True)) as response:
        assert response.status == 502
        assert (await response.json())["error"]["code"] == "upstream_timeout"
    await house.engine.until(lambda: house.engine.aborted == 1)


@pytest.mark.parametrize(
    "full",
    [Script(status=503), Script(status=429), Script(error_before=1, error={"message": "full", "code": 503})],
    ids=["503", "429", "error event under 200"],
)
async def test_overflow_goes_back_to_the_head_of_the_queue(make_house: MakeHouse, full: Script) -> None:
    house = await make_house(worker={"slots": 1})
    house.engine.scripts.extend([full, full])
    house.engine.go.set()
    first = asyncio.ensure_future(house.post(chat(user="first")).__aenter__())
    await house.engine.until(lambda: house.engine.seen)
    second = asyncio.ensure_future(house.post(chat(user="second")).__aenter__())
    for response in await asyncio.gather(first, second):
        assert response.status == 200
        await response.read()
    assert [body["user"] for body in house.engine.seen] == ["first", "first", "first", "second"]
    assert house.counter("a") == 2 * (7 + 2 * 3)


async def test_an_engine_that_stays_full_ends_in_503(
    make_local_house: MakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.pools.slots.LONGEST_HOLD", 0.05)
    house = await make_local_house(Engine(status=503))
    async with house.post(chat()) as response:
        assert response.status == 503
        assert (await response.json())["error"]["code"] == "engines_full"
        assert int(response.headers["Retry-After"]) >= 1
    assert len(house.engine.seen) == 9


async def test_overflow_does_not_outlast_the_queue_timeout(make_house: MakeHouse) -> None:
    house = await make_house(Engine(status=503), pool={"queue": {"timeout_s": 0.2}})
    async with house.post(chat()) as response:
        assert response.status == 504


async def test_a_worker_that_disappears_gets_nothing_until_it_is_back(make_house: MakeHouse) -> None:
    gone, other = Engine(), Engine()
    house = await make_house(gone, other)
    await gone.stop()
    for _ in range(4):
        async with house.post(chat()) as response:
            assert response.status == 200
    assert len(other.seen) == 4
    await until(lambda: not house.worker(gone).healthy)
    await gone.start()
    await until(lambda: house.worker(gone).healthy)


async def test_a_worker_that_calls_itself_unhealthy_gets_nothing(make_house: MakeHouse) -> None:
    sick, other = Engine(), Engine()
    house = await make_house(sick, other)
    sick.alive = False
    await until(lambda: not house.worker(sick).healthy)
    async with house.post(chat()) as response:
        assert response.status == 200
    assert not sick.seen


async def test_whoever_comes_first_finds_the_workers_that_are_there(make_house: MakeHouse) -> None:
    """A gateway that comes back is asked the moment it listens; a worker that has not been looked at is not away."""
    house = await make_house(wait=False)
    async with house.post(chat()) as response:
        assert response.status == 200


class Silent(Engine):
    """Takes connections, and does not say how it is."""

    async def _health(self, request: web.Request) -> web.Response:
        await self.go.wait()
        return await super()._health(request)


async def test_a_worker_that_says_nothing_does_not_keep_the_gateway_from_listening(make_house: MakeHouse) -> None:
    async with asyncio.timeout(60):
        house = await make_house(Silent(), health={"timeout_s": 3600}, wait=False)
        async with house.session.get(house.url + "/healthz") as response:
            assert response.status == 200


async def test_the_size_of_a_worker_is_read_from_its_metrics(make_house: MakeHouse) -> None:
    engine = Engine()
    engine.metrics = 'vllm:cache_config_info{block_size="16",max_num_seqs="5",num_gpu_blocks="100"} 1.0\n'
    house = await make_house(engine, worker={"slots": None, "kv_tokens": None})
    worker = house.worker()
    assert (worker.slots, worker.tokens) == (5, 1600)


async def test_what_kind_of_engine_a_worker_is_shows_before_it_serves(make_house: MakeHouse) -> None:
    engine = Engine()
    engine.metrics = "vllm:num_requests_waiting 0\n"
    house = await make_house(engine, worker={"slots": 5, "kv_tokens": 1600})
    assert house.gateway.engines[engine.url].dialect.name == "vllm"
    assert (house.worker().slots, house.worker().tokens) == (5, 1600)


async def test_a_worker_that_names_no_size_gets_the_fall_back(make_house: MakeHouse) -> None:
    house = await make_house(worker={"slots": None, "kv_tokens": None})
    worker = house.worker()
    assert (worker.slots, worker.tokens) == (32, 32_768)


async def test_a_stream_without_done_is_complete_when_its_choices_are(make_house: MakeHouse) -> None:
    chunk = {"id": "r", "object": "x", "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]}
    house = await make_house(Engine(raw=b"data: " + json.dumps(chunk).encode() + b"\n\n"))
    async with house.post(chat(stream=True)) as response:
        assert events(await response.text())[-1] == "[DONE]"


async def test_a_stream_with_nothing_in_it_is_a_stream(make_house: MakeHouse) -> None:
    house = await make_house(Engine(raw=b"data: [DONE]\n\n"))
    async with house.post(chat(stream=True)) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        assert events(await response.text()) == ["[DONE]"]


async def test_what_is_queued_waits_for_a_worker_that_cannot_be_reached(make_house: MakeHouse) -> None:
    house = await make_house(worker={"slots": 1})
    engine = house.engine
    engine.scripts.append(Script(hold_before=0, die_before=0))
    first = asyncio.ensure_future(house.post(chat()).__aenter__())
    await engine.until(lambda: engine.active == 1)
    second = asyncio.ensure_future(house.post(chat()).__aenter__())
    await until(lambda: house.waiting() == 1)
    await engine.refuse_connections()
    engine.go.set()
    answer = await first
    assert answer.status == 502
    answer.release()
    await until(lambda: not house.worker().healthy and house.waiting() == 1)
    await engine.listen()
    answer = await second
    assert answer.status == 200
    answer.release()
    assert house.counter("a") == 7 + 2 * 3


async def test_what_is_queued_hears_why_when_no_worker_comes_back(make_house: MakeHouse) -> None:
    engine = Engine(hold_before=0)
    house = await make_house(engine, worker={"slots": 1}, pool={"queue": {"timeout_s": 0.5}})
    first = asyncio.ensure_future(house.post(chat()).__aenter__())
    await engine.until(lambda: engine.active == 1)
    engine.alive = False
    second = asyncio.ensure_future(house.post(chat()).__aenter__())
    await until(lambda: house.waiting() == 1 and not house.worker().healthy)
    answer = await second
    assert (answer.status, (await answer.json())["error"]["code"]) == (503, "no_healthy_worker")
    engine.go.set()
    (await first).release()


async def test_what_no_living_worker_can_take_does_not_block_the_others(make_house: MakeHouse) -> None:
    """The large worker dies while a request only it could take waits, with a small one behind it."""
    small, large = Engine(hold_before=0), Engine(hold_before=0)
    house = await make_house(small, large, worker={"slots": 1})
    for engine, tokens in ((small, 100), (large, 10_000)):
        house.pool.set_size(engine.url, 1, tokens)
    big = chat(messages=[{"role": "user", "content": "x" * 4000}])
    running = [asyncio.ensure_future(house.post(chat(user="first")).__aenter__()) for _ in range(2)]
    await until(lambda: small.active == large.active == 1)
    waiting = asyncio.ensure_future(house.post(big).__aenter__())
    await until(lambda: house.waiting() == 1)
    behind = asyncio.ensure_future(house.post(chat(user="behind")).__aenter__())
    await until(lambda: house.waiting() == 2)
    large.alive = False
    for answer in (await waiting, await house.post(big)):
        assert (answer.status, (await answer.json())["error"]["code"]) == (503, "no_large_worker")
        assert int(answer.headers["Retry-After"]) >= 1
    small.go.set()
    large.go.set()
    for answer in (await behind, *await asyncio.gather(*running)):
        assert answer.status == 200
        await answer.read()
    assert small.seen[-1]["user"] == "behind"
