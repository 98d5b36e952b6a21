"""The client of `fairgate bench gateway` in Python, for machines without a C compiler: as gateway_client.c, which says
what it does.

    python -m fairgate.bench.gateway_client PORT CONNECTIONS EVENTS REQUESTS
"""

from __future__ import annotations

import asyncio
import os
import sys
from itertools import cycle
from pathlib import Path
from statistics import median_low
from time import perf_counter
from typing import cast

import httptools
import uvloop

from fairgate.bench.gateway_engine import read_pieces


class Load:
    """What all connections share: what is sent next, and what came since it was last told."""

    def __init__(self, requests: list[bytes], expected: int) -> None:
        self.requests = cycle(requests)
        self.expected = expected
        self.over: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()  # None: nothing was wrong
        self.events = 0
        self.times_us: list[int] = []

    def end(self, why: str | None = None) -> None:
        if not self.over.done():
            self.over.set_result(why)

    def tell(self) -> None:
        if not os.read(sys.stdin.fileno(), 64):
            self.end()
            return
        middle = median_low(self.times_us) if self.times_us else 0
        print(len(self.times_us), self.events, middle, flush=True)
        self.times_us, self.events = [], 0


class ClientConnection(asyncio.Protocol):
    def __init__(self, load: Load) -> None:
        self._load = load
        self._found = self._before = b""
        self._events = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        self._load.end("the server closed a connection before its answer was over")

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._load.end(f"expected an answer of HTTP, found {data[:300]!r} ({error})")

    def on_body(self, data: bytes) -> None:
        if self._load.expected:
            found = (self._before + data).count(b"\n\n")
            self._before = data[-1:] if not data.endswith(b"\n\n") else b""
            self._events += found
            self._load.events += found
        self._found = self._found or data

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status != 200:
            self._load.end(f"expected an answer with status 200, found {status}: {self._found[:300]!r}")
        elif self._events != self._load.expected:
            self._load.end(f"an answer lacks events, its first bytes are: {self._found[:300]!r}")
        else:
            self._load.times_us.append(int(1e6 * (perf_counter() - self._asked)))
            self._ask()

    def _ask(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._events, self._before, self._found = 0, b"", b""
        self._asked = perf_counter()
        self._transport.write(next(self._load.requests))


async def _load(port: int, connections: int, expected: int, requests: list[bytes]) -> str | None:
    loop = asyncio.get_running_loop()
    load = Load(requests, expected)
    loop.add_reader(sys.stdin.fileno(), load.tell)
    for _ in range(connections):
        await loop.create_connection(lambda: ClientConnection(load), "127.0.0.1", port)
    return await load.over


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:4]]
    sys.exit(uvloop.run(_load(numbers[0], numbers[1], numbers[2], read_pieces(Path(sys.argv[4])))))
