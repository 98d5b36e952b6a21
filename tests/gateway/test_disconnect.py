"""A client that leaves takes everything with it, wherever its request is; what was consumed stays charged."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from typing import Any

import aiohttp
import pytest

from gateway.config.schema import TenantConfig
from gateway.engines.pace import ASSUMED, Pace

from .conftest import House, MakeHouse, chat, until
from .engine import Engine, Script


async def leave(house: House, body: dict[str, Any], when: Callable[[], Awaitable[None]]) -> None:
    """Send a request over a connection of its own and close that once `when` is over."""
    call = asyncio.ensure_future(house.post(body).__aenter__())
    await when()
    call.cancel()
    for answer in await asyncio.gather(call, return_exceptions=True):
        if isinstance(answer, aiohttp.ClientResponse):
            answer.close()


def fast(pace: Pace) -> None:
    """A worker that has produced more before anyone can leave than anyone may ask for."""
    pace.ended(10**9, 1, 1.0)


def slow(pace: Pace) -> None:
    """One that will not have produced a token by the time that a test is over."""
    pace.ended(100, 1, 1e12)


async def test_while_queued_the_ticket_leaves_the_queue(make_house: MakeHouse) -> None:
    house = await make_house(Engine(hold_before=0), worker={"slots": 1})
    first = asyncio.ensure_future(house.post(chat()).__aenter__())
    await house.engine.until(lambda: house.engine.active == 1)
    await leave(house, chat(), lambda: until(lambda: house.waiting() == 1))
    await until(lambda: house.waiting() == 0)
    house.engine.go.set()
    (await first).release()
    assert len(house.engine.seen) == 1, "a request whose client had left reached the engine"


@pytest.mark.parametrize("streamed", [True, False])
async def test_before_the_first_byte_the_engine_is_told(make_house: MakeHouse, streamed: bool) -> None:
    house = await make_house(Engine(hold_before=0))
    slow(house.gateway.engines[house.engine.url].pace)
    await leave(house, chat(stream=streamed), lambda: house.engine.until(lambda: house.engine.active == 1))
    await house.engine.until(lambda: house.engine.aborted == 1)
    await until(house.pool.idle)
    output = 0 if streamed else 2 * 1  # which nobody can see: of a worker this slow the least there is
    assert house.counter("a") == 7 + output, "the engine had the input, so it stays charged"


async def test_while_streaming_the_engine_is_told_and_tokens_stay_charged(make_house: MakeHouse) -> None:
    house = await make_house(Engine(hold_before=4), pool={"predict": "max_tokens"})
    charged = 7 + 2 * 100

    async def two_tokens_came() -> None:  # role, two tokens, then the engine holds
        await until(lambda: 2 in house.produced())
        assert house.counter("a") == charged

    await leave(house, chat(stream=True, max_tokens=100), two_tokens_came)
    await house.engine.until(lambda: house.engine.aborted == 1)
    await until(house.pool.idle)
    assert house.counter("a") == 7 + 2 * 2


@pytest.mark.parametrize(
    ("paced", "charged"), [(fast, 100), (slow, 1)], ids=["at most what it may produce", "at least one token"]
)
@pytest.mark.parametrize("predict", ["none", "max_tokens"])
async def test_who_leaves_an_answer_that_nobody_sees_pays_for_the_time_it_ran(
    make_house: MakeHouse, paced: Callable[[Pace], None], predict: str, charged: int
) -> None:
    house = await make_house(Engine(hold_before=1), pool={"predict": predict})
    paced(house.gateway.engines[house.engine.url].pace)
    await leave(house, chat(max_tokens=100), lambda: house.engine.until(lambda: house.engine.active == 1))
    await house.engine.until(lambda: house.engine.aborted == 1)
    await until(house.pool.idle)
    assert house.counter("a") == 7 + 2 * charged


@pytest.mark.parametrize("predict", ["none", "max_tokens"])
async def test_an_answer_that_nobody_sees_costs_its_time_even_where_none_of_its_worker_has_ended(
    make_house: MakeHouse, predict: str
) -> None:
    """Neither nothing, nor all that it might have produced."""
    house = await make_house(Engine(hold_before=1), pool={"predict": predict})
    before = asyncio.get_running_loop().time()
    await leave(house, chat(max_tokens=10_000), lambda: house.engine.until(lambda: house.engine.active == 1))
    await until(house.pool.idle)
    ran = asyncio.get_running_loop().time() - before
    assert 7 + 2 * 1 <= house.counter("a") <= 7 + 2 * max(1, ASSUMED * ran)


async def test_a_whole_answer_that_takes_too_long_is_paid_for_and_not_tried_again(make_house: MakeHouse) -> None:
    """Else a tenant could have engines work for nothing, twice."""
    house = await make_house(Engine(hold_before=1), Engine(hold_before=1), timeouts={"answer_s": 0.1})
    for engine in house.engines:
        fast(house.gateway.engines[engine.url].pace)
    async with house.post(chat(max_tokens=50)) as response:
        assert response.status == 502
        assert (await response.json())["error"]["code"] == "upstream_timeout"
    assert sum(len(engine.seen) for engine in house.engines) == 1
    assert house.counter("a") == 7 + 2 * 50


async def test_a_client_that_does_not_read_holds_up_nobody(make_house: MakeHouse) -> None:
    """Metering and settling go on while the client reads nothing; then it is cut off."""
    big = "y" * 50_000
    house = await make_house(Engine(text=[[big] * 400]), worker={"slots": 1}, limits={"max_unsent_bytes": 200_000})
    _, writer = await asyncio.open_connection("127.0.0.1", house.gateway.port, limit=2**10)
    body = b'{"model":"m","messages":[],"stream":true}'
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nx-api-key: key-a\r\nContent-Length: %d\r\n\r\n"
    writer.write(head % len(body) + body)
    await house.engine.until(lambda: house.engine.seen)
    await until(house.pool.idle)
    assert house.counter("a") > 0
    house.engine.scripts.append(Script())
    async with house.post(chat(), key="key-b") as response:
        assert response.status == 200
    writer.close()


class PlainCall:
    """The client's side without HTTP."""

    path = "/v1/chat/completions"
    request_id = "r"

    def __init__(self, tenant: TenantConfig | None, body: bytes) -> None:
        self.tenant = tenant
        self._body = body
        self.sent = b""
        self.status = 0

    def body(self) -> bytes:
        return self._body

    def release_body(self) -> None:
        """Nothing is accounted for here."""

    def begin(self, headers: Mapping[str, str]) -> None:
        self.status = 200

    def send(self, data: bytes) -> None:
        self.sent += data

    def end(self, data: bytes) -> None:
        self.send(data)

    def reply(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.status, self.sent = status, body


@types.coroutine
def stepped(work: Coroutine[Any, Any, None], at_await: Callable[[], None]) -> Generator[Any, Any, None]:
    """Run `work`, calling `at_await` each time it is about to wait."""
    error: BaseException | None = None
    while True:
        try:
            waits_for = work.throw(error) if error is not None else work.send(None)
        except StopIteration:
            return
        at_await()
        try:
            error = None
            yield waits_for
        except BaseException as thrown:
            error = thrown


async def serve_cancelled_at(house: House, body: bytes, place: int) -> bool:
    """Serve one call, cancelled at its `place`-th await. False: it was over before."""
    awaits = 0

    def at_await() -> None:
        nonlocal awaits
        awaits += 1
        if awaits == place:
            task.cancel()

    async def run() -> None:
        await stepped(house.gateway.hotpath.serve(PlainCall(house.gateway.config.tenants[0], body)), at_await)

    task = asyncio.create_task(run())
    await asyncio.gather(task, return_exceptions=True)
    return awaits >= place


@pytest.mark.parametrize("streamed", [b"true", b"false"])
@pytest.mark.parametrize("trouble", [None, "overflow", "dies", "refuses"])
async def test_cancelled_at_every_await(make_house: MakeHouse, streamed: bytes, trouble: str | None) -> None:
    scripts = {"overflow": Script(status=503), "dies": Script(die_before=1), "refuses": Script(status=400)}
    house = await make_house(Engine(), Engine(), worker={"slots": 1})
    body = b'{"model":"m","messages":[],"max_tokens":2,"stream":%s}' % streamed
    place = 1
    while True:
        for engine in house.engines:
            engine.scripts.clear()
        if trouble is not None:
            house.engines[0].scripts.append(scripts[trouble])
        reached = await serve_cancelled_at(house, body, place)
        house.check()
        assert house.pool.idle(), f"cancelled at await {place}: something is still held"
        for engine in house.engines:
            await engine.until(lambda engine=engine: engine.active == 0)
        if not reached:
            break
        place += 1
    assert place > 2
