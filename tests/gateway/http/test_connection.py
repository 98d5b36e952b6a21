"""One connection, many requests: what is kept open, what is closed, and in which order answers come."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from gateway.ports import Call

from .conftest import CHAT, MakeEdge, chunked, request, sends_far_ahead, until


async def test_a_connection_is_kept(make_edge: MakeEdge) -> None:
    edge = await make_edge()
    wire = await edge.connect()
    for raw, body in ((request(b"1"), b"1"), (chunked(b"2", b"3"), b"23"), (request(b""), b"")):
        wire.send(raw)
        status, fields, got = await wire.answer()
        assert (status, got) == (200, body)
        assert "connection" not in fields
        assert fields["content-type"] == "application/json"
        assert fields["date"].endswith("GMT")
    await wire.close()


async def test_one_write_holds_head_and_body(make_edge: MakeEdge) -> None:
    edge = await make_edge()
    wire = await edge.connect()
    wire.send(request(b"x" * 100))
    await until(lambda: bool(edge.desk.seen))
    assert (await wire.reader.read(4096)).endswith(b"x" * 100)
    await wire.close()


async def test_pipelined_requests_are_answered_one_after_the_other(make_edge: MakeEdge) -> None:
    """The second is not begun before the first is answered, however late that is."""
    edge = await make_edge()
    edge.desk.how = edge.desk.wait
    wire = await edge.connect()
    wire.send(request(b"1") + chunked(b"2") + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + request(b"3"))
    await until(lambda: edge.desk.entered == 1)
    await asyncio.sleep(0.02)  # room for a mistake
    assert edge.desk.entered == 1
    edge.desk.go.set()
    assert [(await wire.answer())[2] for _ in range(4)] == [b"1", b"2", b'{"status":"ok"}', b"3"]
    await wire.close()


async def test_what_is_sent_ahead_is_bounded(make_edge: MakeEdge) -> None:
    edge = await make_edge()
    await sends_far_ahead(edge, await edge.connect())


async def test_reading_goes_on_when_nothing_is_left_of_what_was_sent_ahead(make_edge: MakeEdge) -> None:
    """The second request ends where what was read ends, and is so large that no more was."""
    edge = await make_edge()
    edge.desk.how = edge.desk.wait
    wire = await edge.connect()
    wire.send(request(b"1"))
    await until(lambda: edge.desk.entered == 1)
    wire.send(request(b"x" * 70_000))
    await asyncio.sleep(0.05)  # so that it has come: otherwise this proves nothing
    edge.desk.go.set()
    assert [len((await wire.answer())[2]) for _ in range(2)] == [1, 70_000]
    wire.send(request(b"3"))
    assert (await wire.answer())[2] == b"3"
    await wire.close()


async def test_continue_is_said_to_who_waits_for_it(make_edge: MakeEdge) -> None:
    edge = await make_edge()
    wire = await edge.connect()
    whole = request(b"{}", "Expect: 100-continue")
    wire.send(whole[:-2])
    assert await wire.reader.readexactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
    wire.send(b"{}")
    assert (await wire.answer())[::2] == (200, b"{}")
    wire.send(whole)  # who does not wait is told nothing
    assert (await wire.answer())[::2] == (200, b"{}")
    await wire.close()


@pytest.mark.parametrize(
    ("fields", "key", "status"),
    [
        ("Expect: 100-continue", "wrong", 401),
        ("Expect: 200-ok", "k", 417),
        ("Expect: 100-continue\r\nContent-Encoding: gzip", "k", 415),
    ],
)
async def test_continue_is_not_said_when_the_body_will_not_be_read(
    make_edge: MakeEdge, fields: str, key: str, status: int
) -> None:
    edge = await make_edge()
    wire = await edge.connect()
    wire.send(request(b"{}", fields, key=key)[:-2])
    found, raw = await wire.rest()
    assert found == [status]
    assert raw.startswith(b"HTTP/1.1 %d" % status)
    assert len(edge.desk.faults) == 1, "a refusal goes by the hot path, so that it is recorded"


async def test_http10_is_closed_unless_it_asks(make_edge: MakeEdge) -> None:
    edge = await make_edge()
    wire = await edge.connect()
    page = b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    for raw in (page, request(b"1", "Connection: keep-alive", version="1.0")):
        wire.send(raw)
        assert (await wire.answer())[1]["connection"] == "keep-alive"
    wire.send(request(b"2", version="1.0"))
    status, fields, body = await wire.answer()
    assert (status, fields["connection"], body) == (200, "close", b"2")
    assert await wire.closed()


async def test_http10_needs_no_host(make_edge: MakeEdge) -> None:
    edge = await make_edge()
    wire = await edge.connect()
    wire.send(b"GET /healthz HTTP/1.0\r\n\r\n")
    assert (await wire.rest())[0] == [200]


async def test_a_stream_is_chunked_and_the_connection_kept(make_edge: MakeEdge) -> None:
    edge = await make_edge()
    edge.desk.how = edge.desk.stream
    edge.desk.go.set()
    wire = await edge.connect()
    for _ in range(2):
        wire.send(request())
        head = await wire.reader.readuntil(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head.lower()
        body = await wire.reader.readuntil(b"\r\n0\r\n\r\n")
        assert body == b"9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
    await wire.close()


async def test_a_stream_to_http10_ends_by_closing(make_edge: MakeEdge) -> None:
    edge = await make_edge()
    edge.desk.how = edge.desk.stream
    edge.desk.go.set()
    wire = await edge.connect()
    wire.send(request(b"{}", "Connection: keep-alive", version="1.0"))
    _, raw = await wire.rest()
    head, _, body = raw.partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert b"connection: close" in head.lower()
    assert body == b"data: 1\n\ndata: 2\n\ndata: [DONE]\n\n"


async def test_head_of_a_page(make_edge: MakeEdge) -> None:
    edge = await make_edge()
    wire = await edge.connect()
    wire.send(b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    head = await wire.reader.readuntil(b"\r\n\r\n")
    assert b"content-length: 15" in head.lower()
    assert (await wire.answer())[2] == b'{"status":"ok"}'
    await wire.close()


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (f"GET {CHAT} HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        ("POST /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        ("GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    ],
)
async def test_a_wrong_path_or_method_does_not_cost_the_connection(make_edge: MakeEdge, raw: str, status: int) -> None:
    edge = await make_edge()
    wire = await edge.connect()
    wire.send(raw.encode())
    found, fields, _ = await wire.answer()
    assert found == status
    assert status == 404 or fields["allow"] in ("GET", "POST")
    wire.send(request())
    with suppress(asyncio.IncompleteReadError):
        assert (await wire.answer())[0] == 200
    await wire.close()


@pytest.mark.parametrize(
    "raw",
    [
        request(b"1", "Connection: close"),
        request(b"", "Connection: close"),
        chunked(b"1", fields=b"Connection: close\r\n"),
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ],
)
async def test_connection_close_is_heeded(make_edge: MakeEdge, raw: bytes) -> None:
    edge = await make_edge()
    wire = await edge.connect()
    wire.send(raw + request(b"2"))
    found, got = await wire.rest()
    assert found == [200]
    assert b"\r\nConnection: close\r\n" in got
    assert b"2" not in edge.desk.seen


async def test_an_answer_that_never_comes_closes(make_edge: MakeEdge) -> None:
    """A hot path that ends without an answer must not leave a client waiting for one."""

    async def forgets(call: Call) -> None:
        call.body()

    edge = await make_edge()
    edge.desk.how = forgets
    wire = await edge.connect()
    wire.send(request())
    assert await wire.closed()


# -- patience ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("began", [b"P", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX: ", b"\r\n"])
async def test_a_slow_head_is_not_waited_for(make_edge: MakeEdge, began: bytes) -> None:
    edge = await make_edge(head_s=0.2)
    wire = await edge.connect()
    wire.send(began)
    found, raw = await wire.rest()
    assert found == ([408] if began.strip() else [])
    assert b"head" in raw or not found
    await until(lambda: len(edge.server.census) == 0)


async def test_bytes_now_and_then_do_not_buy_time(make_edge: MakeEdge) -> None:
    edge = await make_edge(head_s=0.3)
    wire = await edge.connect()

    async def dribble() -> None:
        wire.send(b"POST /v1/chat/completions HTTP/1.1\r\nX: ")
        while True:
            wire.send(b"a")
            await asyncio.sleep(0.02)

    dribbling = asyncio.ensure_future(dribble())
    assert (await wire.rest())[0] == [408]
    dribbling.cancel()


@pytest.mark.parametrize("raw", [request(b"xx")[:-1], chunked(b"xx")[:-3]])
async def test_a_slow_body_is_not_waited_for(make_edge: MakeEdge, raw: bytes) -> None:
    edge = await make_edge(body_s=0.2)
    wire = await edge.connect()
    wire.send(raw)
    found, _ = await wire.rest()
    assert found == [408]
    assert edge.desk.faults == ["request_timeout"], "recorded, since its tenant is known"


async def test_silence_is_closed_on_without_a_word(make_edge: MakeEdge) -> None:
    edge = await make_edge(head_s=1, idle_s=0.2)
    silent, idle = await edge.connect(), await edge.connect()
    idle.send(request())
    await idle.answer()
    assert await silent.closed()
    assert await idle.closed()


async def test_a_request_under_way_has_all_the_time(make_edge: MakeEdge) -> None:
    edge = await make_edge(head_s=1, idle_s=1, body_s=1)
    edge.desk.how = edge.desk.wait
    wire = await edge.connect()
    wire.send(request(b"1"))
    await asyncio.sleep(1.6)  # over every limit, and looked at several times
    edge.desk.go.set()
    assert (await wire.answer())[0] == 200
    await wire.close()


@pytest.mark.parametrize("cut", [1, 700])
async def test_431(make_edge: MakeEdge, cut: int) -> None:
    edge = await make_edge(max_head_bytes=2000)
    wire = await edge.connect()
    raw = request(b"{}", "X: " + "a" * 3000)
    for start in range(0, 2800, cut):
        wire.send(raw[start : start + cut])
        await asyncio.sleep(0)
    assert (await wire.rest())[0] == [431]
    assert (await edge.ask(raw))[0] == [431]
    assert edge.desk.seen == []


@pytest.mark.parametrize(
    "raw",
    [
        chunked(b"{}", trailer=b"x: " + b"a" * 3000 + b"\r\n"),
        chunked(b"{}", trailer=b"x: a\r\n" * 500),
        chunked(b"{}").replace(b"2\r\n", b"2;" + b"a" * 3000 + b"\r\n", 1),
    ],
)
async def test_431_by_extensions_and_trailers(make_edge: MakeEdge, raw: bytes) -> None:
    edge = await make_edge(max_head_bytes=2000)
    assert (await edge.ask(raw))[0] == [431]


async def test_a_client_that_does_not_read_is_cut_off(make_edge: MakeEdge) -> None:
    async def floods(call: Call) -> None:
        call.begin({})
        while True:
            call.send(b"x" * 100_000)
            await asyncio.sleep(0)

    edge = await make_edge(max_unsent_bytes=200_000)
    edge.desk.how = floods
    wire = await edge.connect()
    wire.send(request())
    await until(lambda: edge.desk.cancelled == 1)
    await until(lambda: len(edge.server.census) == 0)
    await wire.close()
