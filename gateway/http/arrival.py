"""What comes before the first request where the listener wants it: the PROXY header, then the TLS handshake.

The client has its place from the first moment, so that handshakes that never end are counted, and ended, too. That is
why connections are accepted here: the event loop tells of an encrypted one only when its handshake is over.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from contextlib import suppress
from typing import Final, final

from gateway.http.answers import last_words
from gateway.http.client import ClientConnection, name_of
from gateway.http.proxy_protocol import BadProxyHeader, missing, source
from gateway.http.site import Site

HANDSHAKE_S: Final = 60.0
"""The loop's own limit; the client's patience, `limits.head_s`, is over before."""
AT_ONCE: Final = 64
"""Connections that are accepted before others have their turn."""
PAUSE_S: Final = 0.1
"""After the system had no room for one more, before it is asked again."""
logger = logging.getLogger("gateway")


@final
class Door:
    """Accepts connections on a socket that listens. `proxied`: each begins with a PROXY header."""

    def __init__(self, site: Site, listener: socket.socket, proxied: bool, tls: ssl.SSLContext | None) -> None:
        self._site = site
        self._listener = listener
        self._proxied = proxied
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._arriving: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._open()

    def close(self) -> None:
        """Those who are inside stay; those who are on their way in have to go."""
        self._loop.remove_reader(self._listener)
        if self._pause is not None:
            self._pause.cancel()
        self._listener.close()
        for task in self._arriving:
            task.cancel()

    def _open(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                link, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # too many open files, no memory: asked again at once it would be the same
                self._wait(error)
                return
            self._pause = None
            link.setblocking(False)
            task = self._loop.create_task(self._arrive(link))
            self._arriving.add(task)
            task.add_done_callback(self._arriving.discard)

    def _wait(self, error: OSError) -> None:
        if self._pause is None:  # the first of these errors in a row
            logger.warning("gateway: no connection can be accepted for now: %s", error.strerror)
        self._loop.remove_reader(self._listener)
        self._pause = self._loop.call_later(PAUSE_S, self._open)

    async def _arrive(self, link: socket.socket) -> None:
        """Ends quietly when the client goes, is too slow, or says what is no header and no handshake."""
        client = ClientConnection(self._site)
        task = asyncio.current_task()
        assert task is not None
        inside = False
        with suppress(OSError, BadProxyHeader):  # ssl.SSLError and TimeoutError are of the first kind
            try:
                inside = await self._let_in(link, client, task)
            finally:
                if not inside:
                    link.close()
                    client.connection_lost(None)

    async def _let_in(self, link: socket.socket, client: ClientConnection, task: asyncio.Task[None]) -> bool:
        """Whether it can be read now."""
        refusal = client.arrive(task, "" if self._proxied else name_of(link.getpeername()))
        if refusal is None and self._proxied:
            refusal = client.comes_from(await self._header(link))
        if refusal is None:
            patience = HANDSHAKE_S if self._tls is not None else None
            await self._loop.connect_accepted_socket(
                lambda: client, link, ssl=self._tls, ssl_handshake_timeout=patience
            )
        elif self._tls is None:  # in words where they can be read
            await self._loop.sock_sendall(link, last_words(refusal))
        return refusal is None

    async def _header(self, link: socket.socket) -> str:
        """The address in the PROXY header. Reads not one byte more than it has."""
        header = bytearray()
        while wanted := missing(header):
            if not (data := await self._loop.sock_recv(link, wanted)):
                raise BadProxyHeader("the connection ended before its header did")
            header += data
        return source(header, name_of(link.getpeername()))
