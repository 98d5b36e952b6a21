"""The server edge: listens, keeps time and places for all connections of clients.

A request is answered by a task of its own (`serve`), which is cancelled when its client is gone; that is how the hot
path learns of it. What is answered goes straight to the transport: nothing here waits for a client to read.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Container, Mapping
from contextlib import suppress
from typing import Final, Protocol

from gateway.config.schema import Limits, Listen
from gateway.errors import ConfigError
from gateway.http.answers import date
from gateway.http.arrival import Door
from gateway.http.census import Census
from gateway.http.client import ClientConnection
from gateway.http.files import places
from gateway.http.listener import BACKLOG, listeners
from gateway.http.pages import Page
from gateway.http.site import Authenticate, Serve, Site
from gateway.http.tls import Certificate
from gateway.tenants.held_bytes import HeldBytes

logger = logging.getLogger("gateway")
GOODBYE_S: Final = 1.0
"""How long connections may take to carry their last answers when the server closes."""


class Closable(Protocol):
    """What accepts connections."""

    def close(self) -> None:
        """No more of them."""


class HttpServer:
    """Sends each request to the hot path (POST to one of `endpoints`) or to a page (GET)."""

    def __init__(
        self,
        serve: Serve,
        authenticate: Authenticate,
        endpoints: Container[str],
        pages: Mapping[str, Page],
        limits: Limits,
    ) -> None:
        self.census = Census(places(limits.max_connections), limits.max_connections_per_address)
        self.memory = HeldBytes(limits.max_queued_bytes_per_tenant, limits.max_queued_bytes)
        self._site = Site(serve, authenticate, endpoints, pages, limits, self.census, self.memory)
        self._certificate: Certificate | None = None
        self._doors: list[Closable] = []
        self._socket_file: str | None = None
        self._timekeeper: asyncio.Task[None] | None = None

    async def start(self, listen: Listen, *, reuse_port: bool = False) -> int:
        """Begin to listen. Returns the port (another than asked for when that was 0; 0 on a Unix socket).
        `reuse_port`: share it with other processes. Raises OSError, ConfigError (TLS)."""
        if listen.tls is not None:
            self._certificate = Certificate(listen.tls)
        sockets = listeners(listen, reuse_port=reuse_port)
        self._socket_file = listen.unix  # not before it is ours: somebody else's is not removed at the end
        port = 0 if listen.unix is not None else int(sockets[0].getsockname()[1])
        for listener in sockets:
            self._doors.append(await self._open(listener, listen))
        self._timekeeper = asyncio.get_running_loop().create_task(self._keep_time())
        return port

    async def _open(self, listener: socket.socket, listen: Listen) -> Closable:
        if self._certificate is not None or listen.proxy_protocol:
            context = self._certificate.context if self._certificate is not None else None
            return Door(self._site, listener, listen.proxy_protocol, context)
        loop, make = asyncio.get_running_loop(), lambda: ClientConnection(self._site)
        if listen.unix is not None:
            return await loop.create_unix_server(make, sock=listener, backlog=BACKLOG)
        return await loop.create_server(make, sock=listener, backlog=BACKLOG)

    def renew_certificate(self) -> None:
        """Read the files of `listen.tls` again. Raises ConfigError; then all stays as it was."""
        if self._certificate is not None:
            self._certificate.renew()

    async def close(self) -> None:
        """Stop listening, close every connection."""
        while self._doors:
            self._doors.pop().close()
        if self._socket_file is not None:
            with suppress(OSError):
                os.unlink(self._socket_file)
        if self._timekeeper is not None:
            self._timekeeper.cancel()
        await self._say_goodbye()

    async def _keep_time(self) -> None:
        """One clock for all connections: a timer for each would cost more than looking at all of them now and then."""
        limits, loop = self._site.limits, asyncio.get_running_loop()
        tick = min(1.0, limits.head_s / 4, limits.body_s / 4, limits.idle_s / 4)
        while True:
            await asyncio.sleep(tick)
            self._site.date = date()
            self._look_at_certificate()
            self._expire(loop.time())

    def _expire(self, now: float) -> None:
        """Not in the loop above, which would hold on to the last guest until it looks again."""
        for guest in self.census.guests():
            if guest.deadline < now:
                guest.expire()

    def _look_at_certificate(self) -> None:
        """While a new pair is being put in place it does not fit for a moment; then this comes back when it does."""
        if self._certificate is None or not self._certificate.changed():
            return
        try:
            self._certificate.renew()
        except ConfigError as error:
            logger.warning("the certificate stays as it was: %s", error)

    async def _say_goodbye(self) -> None:
        for guest in self.census.guests():
            guest.close()
        loop = asyncio.get_running_loop()
        end = loop.time() + GOODBYE_S
        while len(self.census) and loop.time() < end:  # noqa: ASYNC110 - each leaves by itself
            await asyncio.sleep(0.005)
        for guest in self.census.guests():
            guest.evict()
