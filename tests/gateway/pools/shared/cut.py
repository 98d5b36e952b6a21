"""A proxy in front of a store that breaks connections after a number of bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class Cut:
    """A proxy in front of the store that passes on `calls` bytes of a connection and `answers` bytes of what comes
    back, and then breaks it; later connections are whole. Counts begin when it is `armed`. `holding`: answers stay
    here. One that breaks has delivered what it passed on: the store still carries that out."""

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target)
        self.armed = False
        self.calls = self.answers = 10**9
        self.holding = False
        self.passed = {"calls": 0, "answers": 0}
        self.broken = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        async with server:
            yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.gather(*self._connections)

    def break_all(self) -> None:
        """Every connection that there is."""
        for writer in self._writers:
            writer.transport.abort()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Each ends when its client does, or the store."""
        self._connections.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, to_store = await asyncio.open_connection(self._target.hostname, self._target.port)
        self._writers.add(writer)
        ways = [
            asyncio.create_task(self._pass(reader, to_store, "calls")),
            asyncio.create_task(self._pass(upstream, writer, "answers")),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        to_store.close()
        writer.transport.abort()
        await asyncio.gather(to_store.wait_closed(), writer.wait_closed(), return_exceptions=True)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, what: str) -> None:
        while data := await source.read(2**16):
            if self.armed:  # by now both batches are on one connection
                left = getattr(self, what) - self.passed[what]
                self.passed[what] += len(data)
                if len(data) > left:
                    sink.write(data[:left])
                    await sink.drain()
                    self.armed = False
                    self.broken.set()
                    return
                if self.holding and what == "answers":
                    continue
            sink.write(data)
