"""A server edge by itself: real sockets in front, and in place of the hot path what answers as a test says."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
import uvloop

from gateway.config.schema import Limits, Listen, TenantConfig
from gateway.errors import ApiError, Unauthenticated
from gateway.http.pages import Page
from gateway.http.server import HttpServer
from gateway.ports import Call, ClientGone

from ..conftest import until

BOTH_LOOPS = ("test_half_closed", "test_worker_connection")


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Callable[[], Any]]:
    """The loop that the gateway runs on; and asyncio's own where the two differ in what they tell."""
    loops = {"uvloop": uvloop.new_event_loop}
    return {**loops, "asyncio": asyncio.new_event_loop} if item.path.stem in BOTH_LOOPS else loops


CHAT = "/v1/chat/completions"
TENANT = TenantConfig(id="a", keys_sha256=["0" * 64])
MUCH = 30_000_000
"""Bytes of an answer that no buffers of a system hold."""


def request(body: bytes = b"{}", *fields: str, path: str = CHAT, key: str = "k", version: str = "1.1") -> bytes:
    lines = (f"POST {path} HTTP/{version}", "Host: x", f"x-api-key: {key}", f"Content-Length: {len(body)}", *fields)
    return "\r\n".join((*lines, "", "")).encode("latin-1") + body


def page(name: str) -> bytes:
    return f"GET /{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def chunked(*chunks: bytes, trailer: bytes = b"", fields: bytes = b"") -> bytes:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nx-api-key: k\r\nTransfer-Encoding: chunked\r\n"
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head + fields + b"\r\n" + body + b"0\r\n" + trailer + b"\r\n"


class Desk:
    """In place of the hot path. Answers with what was asked, or as `how` says; `seen` are the bodies, `faults` the
    codes of what stood in the way, `cancelled` how many clients were noticed to have left."""

    def __init__(self) -> None:
        self.how: Callable[[Call], Awaitable[None]] = self.echo
        self.seen: list[bytes] = []
        self.faults: list[str] = []
        self.entered = 0
        self.cancelled = 0
        self.go = asyncio.Event()

    async def serve(self, call: Call) -> None:
        self.entered += 1
        try:
            await self.how(call)
        except ApiError as error:
            self.faults.append(error.code)
            with suppress(ClientGone):
                call.reply(error.status, error.body(), error.headers)
        except ClientGone:
            self.cancelled += 1
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def echo(self, call: Call) -> None:
        body = call.body()
        self.seen.append(body)
        call.reply(200, body, {"x-request-id": call.request_id})

    async def swell(self, call: Call) -> None:
        """Much, beginning with what was asked."""
        self.seen.append(call.body())
        call.reply(200, self.seen[-1].ljust(MUCH), {})

    async def wait(self, call: Call) -> None:
        body = call.body()
        await self.go.wait()
        call.reply(200, body, {})

    async def stream(self, call: Call) -> None:
        """An event, a wait for `go`, another event, the end."""
        call.body()
        call.begin({})
        call.send(b"data: 1\n\n")
        await self.go.wait()
        call.send(b"data: 2\n\n")
        call.end(b"data: [DONE]\n\n")

    async def completion(self, call: Call) -> None:
        """A chat completion that says hello."""
        call.body()
        message = {"role": "assistant", "content": "hello"}
        choices = [{"index": 0, "finish_reason": "stop", "message": message}]
        answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": choices}
        call.reply(200, json.dumps(answer).encode(), {})


class Edge:
    def __init__(self, server: HttpServer, desk: Desk, listen: Listen, port: int) -> None:
        self.server = server
        self.desk = desk
        self.listen = listen
        self.port = port

    async def connect(self, tls: ssl.SSLContext | None = None) -> Wire:
        if self.listen.unix is not None:
            return Wire(*await asyncio.open_unix_connection(self.listen.unix, ssl=tls))
        return Wire(*await asyncio.open_connection("127.0.0.1", self.port, ssl=tls))

    async def ask(self, raw: bytes) -> tuple[list[int], bytes]:
        """Send everything and no more; the statuses and the bytes of what came back."""
        wire = await self.connect()
        wire.writer.write(raw)
        wire.writer.write_eof()
        return await wire.rest()


class Wire:
    """One connection of a client that speaks bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, raw: bytes) -> None:
        self.writer.write(raw)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next whole answer with a length: status, fields, body."""
        async with asyncio.timeout(30):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status, *fields = head.split("\r\n")
            named = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
            body = await self.reader.readexactly(int(named.get("content-length", "0")))
        return int(status.split()[1]), named, body

    async def rest(self) -> tuple[list[int], bytes]:
        """Until the server closes."""
        got = b""
        async with asyncio.timeout(30):
            with suppress(ConnectionError):
                while data := await self.reader.read(65536):
                    got += data
        await self.close()
        return statuses(got), got

    async def closed(self) -> bool:
        """Wait for the server to close; true when it said nothing more."""
        return not (await self.rest())[1]

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await self.writer.wait_closed()


def statuses(raw: bytes) -> list[int]:
    """Of final answers."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 ([2-5]\d\d) ", raw)]


def authenticate(key: str | None) -> TenantConfig:
    if key != "k":
        raise Unauthenticated("invalid_api_key", "no")
    return TENANT


async def healthz(key: str | None) -> tuple[int, str, bytes]:
    return 200, "application/json", b'{"status":"ok"}'


async def much(key: str | None) -> tuple[int, str, bytes]:
    return 200, "text/plain", b"x" * MUCH


PAGES: Mapping[str, Page] = {"/healthz": healthz, "/much": much}
MakeEdge = Callable[..., Awaitable[Edge]]


@pytest.fixture
async def make_edge(caplog: pytest.LogCaptureFixture) -> AsyncIterator[MakeEdge]:
    """Start an edge: `limits` as keywords, and what it listens on. Afterwards nobody may be connected, no task may be
    left, and nothing may have been logged as an error."""
    before = asyncio.all_tasks()
    async with AsyncExitStack() as stack:

        async def make(listen: dict[str, Any] | None = None, **limits: Any) -> Edge:
            desk = Desk()
            server = HttpServer(desk.serve, authenticate, {CHAT}, PAGES, Limits(**limits))
            where = Listen(**{"port": 0, **(listen or {})})
            edge = Edge(server, desk, where, await server.start(where))
            stack.push_async_callback(server.close)
            stack.callback(desk.go.set)
            return edge

        yield make
    await asyncio.sleep(0)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR], caplog.text
    left = [task for task in asyncio.all_tasks() - before if not task.done() and "serve" in repr(task.get_coro())]
    assert not left


async def sends_far_ahead(edge: Edge, wire: Wire) -> None:
    """A client that goes on sending finds that nobody reads; all of it is answered in the end."""
    edge.desk.how = edge.desk.wait
    one, many = request(b"x" * 50_000), 400

    async def send() -> None:
        for _ in range(many):
            wire.send(one)
            await wire.writer.drain()

    sending = asyncio.ensure_future(send())
    await until(lambda: edge.desk.entered == 1)
    await asyncio.sleep(0.1)
    assert not sending.done(), "20 MB went into buffers"
    edge.desk.go.set()
    for _ in range(many):
        assert len((await wire.answer())[2]) == 50_000
    await sending
    await wire.close()


@asynccontextmanager
async def program(text: str, argument: str, ready: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A program that is ready, with the line in which it says so; stopped at the end. It never shows a trace."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", text, argument, **pipes)
    assert process.stdout is not None
    try:
        line = (await process.stdout.readline()).decode()
        assert ready in line
        yield process, line
    finally:
        process.terminate()
        _, errors = await process.communicate()
        assert b"Traceback" not in errors, errors.decode()
