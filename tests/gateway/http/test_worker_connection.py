"""A connection to a worker: two requests never get in each other's way, and what is sent again, and when.

"Lost" is a connection that its engine closes without a byte of an answer. What an engine is asked is counted there.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random

import pytest

from gateway.config.schema import Timeouts, WorkerConfig
from gateway.errors import UpstreamError
from gateway.http.connection import Outgoing, WorkerConnection
from gateway.http.upstream import HttpUpstream
from gateway.ports import Patience

from ..conftest import until
from ..raw_engine import ABORT, CLOSE, HOLD, Answer, Asked, RawEngine, chunked, http

PATIENT = Patience(60.0, 60.0)
OK = http(200, b"{}")


class Collector:
    """A receiver (see ports.py) that wants `enough` bytes."""

    def __init__(self, enough: int = 2**40) -> None:
        self.begun = False
        self.status = 0
        self.body = b""
        self.whole = False
        self.times_sent = 0
        self._enough = enough

    def sent(self) -> None:
        self.times_sent += 1

    def head(self, status: int) -> None:
        self.status = status

    def data(self, data: bytes) -> bool:
        self.body += data
        return len(self.body) >= self._enough

    def eof(self) -> None:
        self.whole = True


Make = Callable[[RawEngine], Awaitable[HttpUpstream]]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """An engine, started, and the gateway's side of it."""
    made: list[tuple[RawEngine, HttpUpstream]] = []

    async def start(engine: RawEngine) -> HttpUpstream:
        await engine.start()
        upstream = HttpUpstream([WorkerConfig(url=engine.url)], Timeouts(kept_s=60.0))
        made.append((engine, upstream))
        return upstream

    yield start
    for engine, upstream in made:
        await upstream.close()
        await engine.stop()


async def post(
    upstream: HttpUpstream, engine: RawEngine, body: bytes = b"{}", *, repeatable: bool = False
) -> Collector:
    collector = Collector()
    await upstream.post(engine.url, "/x", body, "id", collector, PATIENT, repeatable=repeatable)
    return collector


# -- two requests, one connection ------------------------------------------------------------------------------


class Line:
    """A transport without a socket."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closing = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def abort(self) -> None:
        self.closing = True

    def get_extra_info(self, name: str) -> Line:
        return self

    def fileno(self) -> int:
        return -1

    def is_closing(self) -> bool:
        return self.closing


class Keeper:
    """An owner of connections."""

    def __init__(self) -> None:
        self.kept: list[WorkerConnection] = []

    def opened(self, connection: WorkerConnection) -> None: ...

    def lost(self, connection: WorkerConnection) -> None: ...

    def keep(self, connection: WorkerConnection, now: float) -> None:
        self.kept.append(connection)


def connected() -> tuple[WorkerConnection, Line, Keeper]:
    keeper, line = Keeper(), Line()
    connection = WorkerConnection(keeper, "w")
    connection.connection_made(line)  # type: ignore[arg-type]
    return connection, line, keeper


async def asked(connection: WorkerConnection, request: bytes) -> tuple[asyncio.Task[None], Collector]:
    collector = Collector()
    task = asyncio.create_task(connection.ask(Outgoing(request), collector, PATIENT))
    await asyncio.sleep(0)
    return task, collector


async def test_who_leaves_before_the_end_takes_the_connection_along() -> None:
    connection, line, keeper = connected()
    first, _ = await asked(connection, b"first")
    connection.data_received(OK[:-1])
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert line.closing
    assert not keeper.kept


async def test_an_engine_hears_of_a_dropped_connection_before_anything_else_happens() -> None:
    """The room of its request is given to another in the same step: the loop does not run in between."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: WorkerConnection(Keeper(), "w"),  # type: ignore[arg-type, return-value]
            *listener.getsockname(),
        )
        engine, _ = await asyncio.to_thread(listener.accept)
        with engine:
            connection.drop()  # type: ignore[attr-defined]
            readable, _, _ = select.select([engine], [], [], 10)
            assert readable, "it has not heard of it"
            assert engine.recv(1) == b""


async def test_who_leaves_as_a_connection_is_made_leaves_none_behind(make: Make) -> None:
    engine = RawEngine(lambda asked: Answer([OK]))
    upstream = await make(engine)
    (address,) = upstream._workers.values()
    for _ in range(20):
        task = asyncio.create_task(post(upstream, engine))
        while not address._all:  # noqa: ASYNC110 - not later than that
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until(lambda: not address._all)
    await until(lambda: not engine.connections)


async def test_a_request_over_a_connection_that_is_closing_was_not_sent() -> None:
    connection, line, _ = connected()
    connection.drop()
    with pytest.raises(UpstreamError):
        await connection.ask(Outgoing(b"x"), Collector(), PATIENT)
    assert not line.sent
    assert connection.unanswered
    assert connection.unsent


class Encrypted(Line):
    """As TLS under uvloop: it asks for a pause though all has been handed on."""

    left = 0

    def get_write_buffer_size(self) -> int:
        return self.left


@pytest.mark.parametrize("left", [0, 1])
async def test_a_pause_alone_does_not_say_that_something_is_left(left: int) -> None:
    """Else a request that its engine has served would be sent once more."""
    line = Encrypted()
    connection = WorkerConnection(Keeper(), "w")
    connection.connection_made(line)  # type: ignore[arg-type]
    task, collector = await asked(connection, b"x")
    line.left = left
    connection.pause_writing()
    connection.connection_lost(None)
    with pytest.raises(UpstreamError):
        await task
    assert connection.unanswered
    assert connection.unsent is bool(left)
    assert collector.times_sent == 1


async def test_what_came_before_nonsense_is_handed_on() -> None:
    """As in reads of their own, so in one."""
    connection, _, _ = connected()
    task, collector = await asked(connection, b"x")
    connection.data_received(b"".join(chunked([b"one", b"two"])[:-1]) + b"nonsense\r\n")
    with pytest.raises(UpstreamError, match="not usable"):
        await task
    assert collector.body == b"onetwo"


async def test_a_receiver_whose_fault_no_future_takes_is_heard_of() -> None:
    class Exhausted(Collector):
        def data(self, data: bytes) -> bool:
            raise StopIteration

    connection, line, _ = connected()
    task = asyncio.create_task(connection.ask(Outgoing(b"x"), Exhausted(), PATIENT))
    await asyncio.sleep(0)
    connection.data_received(OK)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await task
    assert line.closing


async def test_a_request_is_let_go_of_when_its_answer_begins() -> None:
    connection, _, _ = connected()
    request = Outgoing(b"x")
    task = asyncio.create_task(connection.ask(request, Collector(), PATIENT))
    await asyncio.sleep(0)
    assert request.data == b"x"
    connection.data_received(OK[:1])
    assert request.data == b""
    connection.data_received(OK[1:])
    await task


async def test_an_engine_that_goes_on_for_ever_after_the_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte that it sends must not buy it more time."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, asyncio.BaseEventLoop):
        pytest.skip("needs timers that follow a clock which a test sets: asyncio's do")
    connection, line, _ = connected()
    task = asyncio.create_task(connection.ask(Outgoing(b"x"), Collector(enough=1), PATIENT))
    await asyncio.sleep(0)
    connection.data_received(b"".join(chunked([b"x"])[:-1]))
    await task
    begin, now = loop.time(), loop.time()
    monkeypatch.setattr(loop, "time", lambda: now)
    while not line.closing and now < begin + 60:
        now += 1.0
        connection.data_received(b"1\r\nx\r\n")
        await asyncio.sleep(0)
    assert line.closing


# -- a kept connection that is lost ----------------------------------------------------------------------------


def then_lost(asked: Asked) -> Answer:
    """Answers the first request of a connection, and closes in the face of the second."""
    return Answer([], CLOSE) if asked.number else Answer([OK])


async def test_an_engine_that_works_for_the_one_who_is_connected_is_asked_again_once(make: Make) -> None:
    engine = RawEngine(then_lost)
    upstream = await make(engine)
    await post(upstream, engine)
    assert (await post(upstream, engine, repeatable=True)).whole
    assert [asked.number for asked in engine.asked] == [0, 1, 0]


async def test_any_other_is_not_asked_twice_once_it_had_the_whole_request(make: Make) -> None:
    engine = RawEngine(then_lost)
    upstream = await make(engine)
    await post(upstream, engine)
    with pytest.raises(UpstreamError, match="closed"):
        await post(upstream, engine)
    assert len(engine.asked) == 2


async def test_a_fresh_connection_that_is_lost_is_the_callers_affair(make: Make) -> None:
    engine = RawEngine(lambda asked: Answer([], CLOSE))
    upstream = await make(engine)
    with pytest.raises(UpstreamError, match="closed"):
        await post(upstream, engine, repeatable=True)
    assert len(engine.asked) == 1


async def test_it_is_asked_again_once_and_no_more(make: Make) -> None:
    """The second connection is lost as well."""
    engine = RawEngine(lambda asked: Answer([OK]) if len(engine.asked) == 1 else Answer([], CLOSE))
    upstream = await make(engine)
    await post(upstream, engine)
    with pytest.raises(UpstreamError, match="closed"):
        await post(upstream, engine, repeatable=True)
    assert len(engine.asked) == 3


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_any_engine_is_asked_again_when_it_closed_before_it_had_the_whole_request(make: Make, how: str) -> None:
    """16 MiB are more than the system takes at once. One that closes with bytes unread resets the connection."""
    engine = RawEngine(lambda asked: Answer([OK]))
    upstream = await make(engine)
    await post(upstream, engine)
    refused = 0

    def deaf(connection: object, data: bytes) -> None:
        nonlocal refused
        if refused == 0:
            refused += 1
            getattr(connection.transport, how)()  # type: ignore[attr-defined]

    engine.read = deaf
    assert (await post(upstream, engine, b"x" * 2**24)).whole
    assert [len(asked.body) for asked in engine.asked] == [2, 2**24]
    assert refused == 1


@pytest.mark.parametrize("then", [CLOSE, ABORT])
@pytest.mark.parametrize("begun", [b"HTTP/1.1 2", b"HTTP/1.1 100 Continue\r\n\r\n", OK[:-1]])
async def test_an_engine_that_said_anything_is_not_asked_again(make: Make, begun: bytes, then: str) -> None:
    engine = RawEngine(lambda asked: Answer([begun], then) if asked.number else Answer([OK]))  # type: ignore[arg-type]
    upstream = await make(engine)
    await post(upstream, engine)
    with pytest.raises(UpstreamError, match="closed"):
        await post(upstream, engine, repeatable=True)
    assert len(engine.asked) == 2


async def test_a_time_out_over_a_kept_connection_is_not_a_loss(make: Make) -> None:
    engine = RawEngine(lambda asked: Answer([], HOLD) if asked.number else Answer([OK]))
    upstream = await make(engine)
    await post(upstream, engine)
    with pytest.raises(UpstreamError, match="too long"):
        await upstream.post(engine.url, "/x", b"{}", "id", Collector(), Patience(0.05, 0.05), repeatable=True)
    assert len(engine.asked) == 2


async def test_an_engine_that_closes_after_each_answer_costs_no_request(make: Make) -> None:
    """0.5 to 5 ms after it, when the next request may be on its way or yet to be sent."""
    chance = Random(1)
    engine = RawEngine(lambda asked: Answer([OK], close_after=chance.uniform(0.0005, 0.005)))
    upstream = await make(engine)
    for _ in range(300):
        assert (await post(upstream, engine, repeatable=True)).whole
        await asyncio.sleep(chance.uniform(0, 0.006))
    assert len(engine.asked) >= 300
