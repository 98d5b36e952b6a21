"""What the head is enough to refuse is refused there: nothing of the body is kept, and the client hears why."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from .conftest import MakeEdge, chunked, request, until

BIG = b"x" * 3_000_000


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (request(BIG, key="wrong"), 401, "invalid_api_key"),
        (request(BIG, "Content-Encoding: gzip"), 415, "unsupported_content_encoding"),
        (request(BIG, "Content-Encoding: identity, gzip"), 415, "unsupported_content_encoding"),
        (request(BIG + BIG), 413, "body_too_large"),
        (chunked(BIG, BIG), 413, "body_too_large"),
        (chunked(*[b"x" * 1000] * 4500), 413, "body_too_large"),
        (request(BIG, path="/v1/nothing"), 404, ""),
    ],
)
async def test_the_answer_arrives_though_the_body_is_not_read(
    make_edge: MakeEdge, raw: bytes, status: int, code: str
) -> None:
    """The client goes on sending until it is stopped; what it gets is the answer and not a reset alone."""
    edge = await make_edge(max_body_bytes=4_000_000)
    wire = await edge.connect()

    async def send() -> None:
        for start in range(0, len(raw), 10_000):
            wire.send(raw[start : start + 10_000])
            await wire.writer.drain()

    sending = asyncio.ensure_future(send())
    found, _, _ = await wire.answer()
    assert found == status
    assert edge.desk.faults == ([code] if code else [])
    assert edge.desk.seen == []
    await asyncio.gather(sending, return_exceptions=True)
    await wire.close()
    await until(lambda: len(edge.server.census) == 0)


async def test_before_a_byte_of_the_body_is_there(make_edge: MakeEdge) -> None:
    edge = await make_edge()
    wire = await edge.connect()
    wire.send(request(BIG, key="wrong")[: -len(BIG)])
    found, fields, _ = await wire.answer()
    assert (found, fields["connection"]) == (401, "close")
    assert await wire.closed()


async def test_one_who_goes_on_sending_is_closed_on(make_edge: MakeEdge) -> None:
    """More than a small rest is not taken in, and none of it for longer than a moment."""
    edge = await make_edge()
    wire = await edge.connect()
    wire.send(request(BIG, key="wrong")[: -len(BIG)])
    assert (await wire.answer())[0] == 401

    async def send() -> None:
        while True:
            wire.send(b"x" * 10_000)
            await wire.writer.drain()

    async with asyncio.timeout(30):
        with pytest.raises(ConnectionError):
            await send()
    await until(lambda: len(edge.server.census) == 0)


@pytest.mark.parametrize("fields", [(), ("Content-Encoding: identity",), ("content-encoding:",)])
async def test_a_plain_body_is_read(make_edge: MakeEdge, fields: Any) -> None:
    edge = await make_edge()
    assert (await edge.ask(request(b"{}", *fields)))[0] == [200]
