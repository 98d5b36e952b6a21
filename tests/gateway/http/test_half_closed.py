"""A client that has ended its side may still read; one that has left must give its place up. Both send the same FIN.

On the loop that the gateway runs on, which does not read after an end, and on asyncio's own.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from pathlib import Path

import pytest

from .conftest import Edge, MakeEdge, Wire, request, until

RESET = struct.pack("ii", 1, 0)
"""Linger for no time: to close is to reset."""
tells = pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="only Linux says in which state a connection is")


async def asked(edge: Edge, raw: bytes) -> Wire:
    wire = await edge.connect()
    wire.send(raw)
    await until(lambda: edge.desk.entered == 1)
    return wire


async def test_a_half_closed_client_has_its_answer(make_edge: MakeEdge) -> None:
    edge = await make_edge()
    edge.desk.how = edge.desk.wait
    wire = await asked(edge, request(b"1") + request(b"2"))
    wire.writer.write_eof()
    await asyncio.sleep(0.2)  # room for a mistake: longer than to the first look
    assert edge.desk.cancelled == 0
    edge.desk.go.set()
    found, raw = await wire.rest()
    assert found == [200, 200], "all that it asked is answered, then the connection closed"
    assert raw.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200")


async def test_a_half_closed_client_has_its_stream(make_edge: MakeEdge) -> None:
    """What asks whether it is there changes no byte of the answer."""
    edge = await make_edge()
    edge.desk.how = edge.desk.stream
    wire = await asked(edge, request())
    await wire.reader.readuntil(b"data: 1\n\n\r\n")
    wire.writer.write_eof()
    await asyncio.sleep(0.2)
    edge.desk.go.set()
    _, raw = await wire.rest()
    assert raw == b"09\r\ndata: 2\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
    assert edge.desk.cancelled == 0


@tells
@pytest.mark.parametrize("how", ["wait", "stream"])
async def test_a_client_that_left_is_noticed(make_edge: MakeEdge, how: str) -> None:
    """With nothing to send to it, so that no write would tell."""
    edge = await make_edge()
    edge.desk.how = getattr(edge.desk, how)
    wire = await asked(edge, request())
    if how == "stream":
        await wire.reader.readuntil(b"data: 1\n\n\r\n")
    await wire.close()
    await until(lambda: edge.desk.cancelled == 1)
    await until(lambda: len(edge.server.census) == 0)


@tells
async def test_a_half_closed_client_that_leaves_later_is_noticed(make_edge: MakeEdge) -> None:
    edge = await make_edge()
    edge.desk.how = edge.desk.wait
    wire = await asked(edge, request())
    wire.writer.write_eof()
    await wire.reader.readuntil(b"100 Continue\r\n\r\n")
    await asyncio.sleep(0.1)
    assert edge.desk.cancelled == 0
    await wire.close()
    await until(lambda: edge.desk.cancelled == 1)


async def test_a_client_that_resets_is_noticed(make_edge: MakeEdge) -> None:
    edge = await make_edge()
    edge.desk.how = edge.desk.wait
    wire = await asked(edge, request())
    wire.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    wire.writer.transport.abort()
    await until(lambda: edge.desk.cancelled == 1)
    await wire.close()


@tells
async def test_a_client_that_left_while_it_was_not_read_is_noticed(make_edge: MakeEdge) -> None:
    """It sent so much ahead that its end is behind what is read; a reset shows all the same."""
    edge = await make_edge()
    edge.desk.how = edge.desk.wait
    with socket.create_connection(("127.0.0.1", edge.port)) as client:
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client, request(b"x" * 100_000) * 3)
        await until(lambda: edge.desk.entered == 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    await until(lambda: edge.desk.cancelled == 1)


@pytest.mark.parametrize("how", ["wait", "stream"])
async def test_http10_that_ends_is_gone(make_edge: MakeEdge, how: str) -> None:
    edge = await make_edge()
    edge.desk.how = getattr(edge.desk, how)
    wire = await asked(edge, request(version="1.0"))
    wire.writer.write_eof()
    await until(lambda: edge.desk.cancelled == 1)
    assert b"100 Continue" not in (await wire.rest())[1]


@pytest.mark.parametrize("raw", [b"", b"POST / HT", request(b"xx")[:-1]])
async def test_an_end_before_a_request_is_whole_closes(make_edge: MakeEdge, raw: bytes) -> None:
    edge = await make_edge()
    wire = await edge.connect()
    wire.send(raw)
    wire.writer.write_eof()
    assert (await wire.rest())[0] == []
    assert edge.desk.entered == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")
async def test_on_a_unix_socket_a_write_tells(make_edge: MakeEdge, tmp_path: Path) -> None:
    edge = await make_edge({"unix": str(tmp_path / "s")})
    edge.desk.how = edge.desk.wait
    half = await asked(edge, request(b"1"))
    half.writer.write_eof()
    gone = await edge.connect()
    gone.send(request(b"2"))
    await until(lambda: edge.desk.entered == 2)
    await gone.close()
    await until(lambda: edge.desk.cancelled == 1)
    edge.desk.go.set()
    assert (await half.rest())[0] == [200]
