"""`fairgate bench relay`: what the gateway costs, as ratios to the barest relay that aiohttp allows, in one run.

Engine, relay and gateway run as processes of their own; compared is the processor time of relay and gateway under the
same load, in turns. The bare relay (aiohttp server, `ClientSession` towards the engine) passes bytes on: no keys, no
queue, no metering. Two loads: a request is short answers one after the other on 32 connections, an event 100 streams at
once whose events come 20 ms apart. With many tenants most requests queue in the gateway.
"""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing.connection import Connection
from statistics import median
from typing import NamedTuple, cast

import aiohttp
import uvloop
from aiohttp import web

from fairgate.bench.client import LoadClient, post
from fairgate.bench.rounds import table
from fairgate.errors import ProcessError
from fairgate.topology.cpu_time import CpuTime
from gateway.app import build
from gateway.config.load import parse_config
from loadgen.client.wire import CHAT
from loadgen.progress import Progress, quiet

GAP = 0.02
CONNECTIONS = 32
STREAMS = 100
EVENTS_PER_STREAM = 50
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'"content":"word "'  # what every token's event has in it
RELAY, GATEWAY = "relay", "gateway"


@dataclass(frozen=True)
class RelayPlan:
    """In each of `rounds`, and one before them for warmth, `requests` on each connection. `tenants` of the gateway."""

    rounds: int = 3
    tenants: int = 1
    requests: int = 60


class Cost(NamedTuple):
    """Microseconds of processor time."""

    request: float
    event: float


@dataclass(frozen=True)
class RelayFound:
    """Of the gateway and of the bare relay: one cost in each round."""

    costs: Mapping[str, Sequence[Cost]]

    def middle(self, name: str) -> Cost:
        return Cost(*map(median, zip(*self.costs[name], strict=True)))


def bench_relay(plan: RelayPlan, progress: Progress = quiet) -> RelayFound:
    """Raises ProcessError when an answer is not what it should be."""
    costs: dict[str, list[Cost]] = {RELAY: [], GATEWAY: []}
    with (
        serving(start_engine) as engine,
        serving(start_relay, engine.port) as relay,
        serving(start_gateway, engine.port, plan.tenants) as gateway,
    ):
        for number in range(plan.rounds + 1):
            for name, measured, tenants in ((RELAY, relay, 1), (GATEWAY, gateway, plan.tenants)):
                progress(f"{name}, round {number} of {plan.rounds}", number / (plan.rounds + 1))
                costs[name].append(cost_of(measured, tenants, plan.requests))
    return RelayFound({name: found[1:] for name, found in costs.items()})


def markdown(found: RelayFound) -> str:
    """The figures as a table."""
    ours, bare = found.middle(GATEWAY), found.middle(RELAY)
    rows = [
        [f"per {what}", f"{own:.1f}", f"{least:.1f}", f"{own / least:.2f}"]
        for what, own, least in zip(Cost._fields, ours, bare, strict=True)
    ]
    return table(["processor time", "gateway, us", "bare relay, us", "ratio"], rows)


# -- the load ------------------------------------------------------------------------------------------------------


def cost_of(server: Server, tenants: int, times: int) -> Cost:
    request = _spent_us(server, tenants, CONNECTIONS, 1, CONNECTIONS * times) / (CONNECTIONS * times)
    streams = _spent_us(server, tenants, STREAMS, EVENTS_PER_STREAM, STREAMS)
    return Cost(request, max(0.0, streams - STREAMS * request) / (STREAMS * (EVENTS_PER_STREAM - 1)))


def _spent_us(server: Server, tenants: int, connections: int, tokens: int, requests: int) -> float:
    cpu = CpuTime(server=[server.pid])
    asked = [_request(f"key-{number}", tokens) for number in range(tenants)]
    with closing(LoadClient([server.port], asked, connections, EVENT)) as client:
        answers = client.closed_loop(requests=requests)
    if wrong := [answer for answer in answers if answer.events != tokens]:
        raise ProcessError(f"{len(wrong)} answers are wrong, one has {wrong[0].events} events; expected {tokens}")
    return 1e6 * cpu.spent().cpu_s["server"]


def _request(key: str, tokens: int) -> bytes:
    messages = [{"role": "user", "content": "hello there"}]
    return post(CHAT, key, {"model": "m", "messages": messages, "stream": True, "max_tokens": tokens})


# -- a server as a process -----------------------------------------------------------------------------------------

Start = Callable[[int, int], Awaitable[int]]  # of the engine's port and a number of tenants; returns its own port


class Server(NamedTuple):
    pid: int
    port: int


@contextmanager
def serving(start: Start, engine: int = 0, tenants: int = 1) -> Iterator[Server]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(start, engine, tenants, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Server(process.pid or 0, ours.recv())
    finally:
        ours.close()
        process.join(5)


def _serve(start: Start, engine: int, tenants: int, pipe: Connection) -> None:
    """Tells its port, and ends when nobody holds the other end of the pipe."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        pipe.send(await start(engine, tenants))
        over = asyncio.Event()
        loop.add_reader(pipe.fileno(), over.set)
        await over.wait()
        os._exit(0)  # nothing is left to say, and open connections need no farewell

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


# -- the engine: as cheap as Python allows, every event in a write of its own --------------------------------------


def event(number: int, last: bool) -> bytes:
    choice = {"index": 0, "delta": {"content": "word "}, "logprobs": None, "finish_reason": "stop" if last else None}
    usage = {"prompt_tokens": 12, "total_tokens": 12 + number, "completion_tokens": number}
    head = {"id": "chatcmpl-0123456789abcdef", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    data = b"data: " + json.dumps({**head, "choices": [choice], "usage": usage}, separators=(",", ":")).encode()
    return b"%x\r\n%b\r\n" % (len(data) + 2, data + b"\n\n")


def ending() -> bytes:
    usage = {"prompt_tokens": 12, "total_tokens": 13, "completion_tokens": 1}
    last = json.dumps({"object": "chat.completion.chunk", "choices": [], "usage": usage}, separators=(",", ":"))
    data = f"data: {last}\n\ndata: [DONE]\n\n".encode()
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)


class EngineConnection(asyncio.Protocol):
    """Answers POST with a stream of `max_tokens` events, anything else with an empty 200."""

    def __init__(self) -> None:
        self._got = b""
        self._left = self._number = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, found, body = self._got.partition(b"\r\n\r\n")
        if head.startswith(b"GET") and found:
            self._got = b""
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        elif found and body.endswith(b"}"):
            self._got = b""
            self._left, self._number = json.loads(body)["max_tokens"], 0
            self._next(HEAD)

    def _next(self, before: bytes = b"") -> None:
        self._left -= 1
        self._number += 1
        self._transport.write(before + event(self._number, not self._left))
        if self._left:
            asyncio.get_running_loop().call_later(GAP, self._next)
        else:
            self._transport.write(ending())


async def start_engine(_: int, __: int) -> int:
    server = await asyncio.get_running_loop().create_server(EngineConnection, "127.0.0.1", 0, backlog=4096)
    return int(server.sockets[0].getsockname()[1])


# -- what is compared ----------------------------------------------------------------------------------------------


async def start_relay(engine: int, _: int) -> int:
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    async def relay(request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        url = f"http://127.0.0.1:{engine}{request.path}"
        async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as answer:
            response = web.StreamResponse(headers={"Content-Type": answer.headers["Content-Type"]})
            await response.prepare(request)
            async for data in answer.content.iter_any():
                await response.write(data)
            await response.write_eof()
            return response

    runner = web.ServerRunner(web.Server(relay, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    return int(runner.addresses[0][1])


async def start_gateway(engine: int, tenants: int) -> int:
    logging.getLogger("gateway").addHandler(logging.NullHandler())
    logging.getLogger("gateway").setLevel(logging.INFO)
    slots = 4 * STREAMS if tenants == 1 else CONNECTIONS // 4
    worker = {"url": f"http://127.0.0.1:{engine}", "slots": slots, "kv_tokens": 10_000_000}
    config = {
        "listen": {"port": 0},
        "pools": {"main": {"models": ["m"], "workers": [worker]}},
        "tenants": [{"id": f"t{i}", "keys_sha256": [sha256(f"key-{i}".encode()).hexdigest()]} for i in range(tenants)],
    }
    gateway = build(parse_config(config))
    await gateway.start()
    while not gateway.ready():  # noqa: ASYNC110 - there is no event to wait on
        await asyncio.sleep(0.01)
    return gateway.port
