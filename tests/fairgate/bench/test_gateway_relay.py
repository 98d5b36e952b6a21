"""The bare relay of `bench gateway`: bytes go through as they came, and who leaves takes the other side along."""

import asyncio
from collections import deque
from contextlib import asynccontextmanager, suppress

import pytest

from fairgate.bench.client import post
from fairgate.bench.gateway_relay import FromClient

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNK, END = b"9\r\ndata: {}\n\r\n", b"0\r\n\r\n"


@asynccontextmanager
async def relaying(answer):
    """`answer(reader, writer)` is the engine, once for each connection. Yields the two ends of a client's."""
    engine = await asyncio.start_server(answer, "127.0.0.1", 0)
    idle = deque()
    port = engine.sockets[0].getsockname()[1]
    relay = await asyncio.get_running_loop().create_server(lambda: FromClient(port, idle), "127.0.0.1", 0)
    async with engine, relay, asyncio.timeout(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.sockets[0].getsockname()[1])
        yield reader, writer
        writer.close()
        for kept in idle:
            kept.transport.abort()
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))  # the engine's end with connections
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_bytes_go_through_as_they_came_over_one_kept_connection():
    request = post("/v1/chat/completions", "key", {"prompt": "hello"})
    connections, asked = 0, []

    async def answer(reader, writer):
        nonlocal connections
        connections += 1
        while data := await reader.read(65536):
            asked.append(data)
            writer.write(HEAD + CHUNK + END)
        writer.close()

    async with relaying(answer) as (reader, writer):
        for _ in range(3):
            writer.write(request[:30])
            writer.write(request[30:])
            assert await reader.readexactly(len(HEAD + CHUNK + END)) == HEAD + CHUNK + END
    assert b"".join(asked) == 3 * request
    assert connections == 1


async def test_a_client_that_leaves_ends_the_engines_work():
    gone = asyncio.Event()

    async def answer(reader, writer):
        await reader.read(65536)
        writer.write(HEAD + CHUNK)
        with suppress(ConnectionError):
            await reader.read()
        gone.set()
        writer.close()

    async with relaying(answer) as (reader, writer):
        writer.write(post("/", "key", {}))
        await reader.readexactly(len(HEAD + CHUNK))
        writer.close()
        await gone.wait()


async def test_an_engine_that_closes_within_an_answer_ends_the_clients_connection():
    async def answer(reader, writer):
        await reader.read(65536)
        writer.write(HEAD + CHUNK)
        await writer.drain()
        writer.close()

    async with relaying(answer) as (reader, writer):
        writer.write(post("/", "key", {}))
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(len(HEAD + CHUNK + END))
