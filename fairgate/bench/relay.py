"""What the gateway costs, as ratios to the barest relay that aiohttp allows, measured in one run.

    python fairgate/bench/relay.py [--rounds N]

Engine, relay, gateway and load run as processes of their own; compared is the CPU time of relay and gateway under the
same load, in turns. The bare relay (aiohttp server, `ClientSession` towards the engine) passes bytes on: no keys, no
queue, no metering. Two loads: `request` is short answers one after the other on 32 connections, `event` 100 streams at
once whose events come 20 ms apart. With `--tenants N` the gateway serves that many tenants and most requests queue.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import multiprocessing
import os
import time
from collections.abc import Awaitable, Callable
from hashlib import sha256
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, cast

import aiohttp
import uvloop
from aiohttp import web

from gateway.app import build
from gateway.config.load import parse_config

PATH = "/v1/chat/completions"
GAP = 0.02
CONNECTIONS = 32
STREAMS = 100
EVENTS_PER_STREAM = 50
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Cost(NamedTuple):
    """Microseconds of CPU time."""

    request: float
    event: float


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


def serve(start: Callable[[int, int], Awaitable[int]], engine: int, tenants: int, pipe: Connection) -> None:
    """A process: tells its port, then its CPU seconds whenever it is asked."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        pipe.send(await start(engine, tenants))
        over = loop.create_future()

        def asked() -> None:
            if pipe.recv():
                pipe.send(time.process_time())
            else:
                over.set_result(None)

        loop.add_reader(pipe.fileno(), asked)
        await over
        os._exit(0)  # nothing is left to say, and open connections need no farewell

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


class Process:
    def __init__(self, start: Callable[[int, int], Awaitable[int]], engine: int = 0, tenants: int = 1) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.Process(target=serve, args=(start, engine, tenants, theirs), daemon=True)
        self._process.start()
        self.port: int = self._pipe.recv()

    def cpu(self) -> float:
        self._pipe.send(True)
        return float(self._pipe.recv())

    def stop(self) -> None:
        self._pipe.send(False)
        self._process.join(5)


# -- the load ------------------------------------------------------------------------------------------------------


async def ask(port: int, tokens: int, times: int, key: int) -> None:
    """Send the same request `times` times over one connection."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello there"}], "stream": True,
                       "max_tokens": tokens}).encode()  # fmt: skip
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer key-{key}\r\nContent-Length: {len(body)}\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(times):
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n0\r\n\r\n")
        if answer.count(b'"content":"word "') != tokens or b"[DONE]" not in answer:
            raise RuntimeError(f"an answer is wrong: {answer[:200]!r}")
    writer.close()
    await writer.wait_closed()


async def load(port: int, connections: int, tokens: int, times: int, tenants: int) -> None:
    await asyncio.gather(*(ask(port, tokens, times, i % tenants) for i in range(connections)))


def cost(process: Process, tenants: int) -> Cost:
    times = 60

    def run(connections: int, tokens: int, times: int) -> float:
        before = process.cpu()
        uvloop.run(load(process.port, connections, tokens, times, tenants))
        return (process.cpu() - before) * 1e6

    request = run(CONNECTIONS, 1, times) / (CONNECTIONS * times)
    streams = run(STREAMS, EVENTS_PER_STREAM, 1)
    return Cost(request, max(0.0, streams - STREAMS * request) / (STREAMS * (EVENTS_PER_STREAM - 1)))


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU time of the gateway against a bare aiohttp relay.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tenants", type=int, default=1)
    asked = parser.parse_args()
    engine = Process(start_engine)
    compared = {
        "relay": Process(start_relay, engine.port),
        "gateway": Process(start_gateway, engine.port, asked.tenants),
    }
    costs: dict[str, list[Cost]] = {name: [] for name in compared}
    for number in range(-1, asked.rounds):
        for name, process in compared.items():
            measured = cost(process, asked.tenants if name == "gateway" else 1)
            if number >= 0:  # the first round warms up
                costs[name].append(measured)
            print(f"{name:8} {measured.request:7.1f} us a request {measured.event:6.1f} us an event", flush=True)
    report(costs)
    for process in (*compared.values(), engine):
        process.stop()


def report(costs: dict[str, list[Cost]]) -> None:
    def middle(values: list[Any]) -> float:
        return float(sorted(values)[len(values) // 2])

    for field in Cost._fields:
        ours, bare = (middle([getattr(each, field) for each in costs[name]]) for name in ("gateway", "relay"))
        print(f"per {field}: gateway {ours:.1f} us, bare relay {bare:.1f} us, ratio {ours / bare:.2f}")


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    main()
