"""What comes before the first request where the listener wants it: the PROXY header, then the TLS handshake.

The client has its place from the first moment, so that handshakes that never end are counted, and ended, too.
"""

from __future__ import annotations

import asyncio
import ssl
from math import inf
from typing import Final, cast, final

from gateway.errors import ApiError
from gateway.http.answers import last_words
from gateway.http.client import ClientConnection, address_of
from gateway.http.proxy_protocol import BadProxyHeader, missing, source
from gateway.http.site import Site

HANDSHAKE_S: Final = 15.0


@final
class Arrival(asyncio.BufferedProtocol):
    """A connection until its client can be read. Reads not one byte more than the PROXY header has."""

    def __init__(self, site: Site, proxied: bool, tls: ssl.SSLContext | None) -> None:
        self._client = ClientConnection(site)
        self._proxied = proxied
        self._tls = tls
        self._header = bytearray()
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._handshake: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        address = "" if self._proxied else address_of(transport)
        if (refusal := self._client.arrive(self._transport, address)) is not None:
            self._turn_away(self._transport, refusal)
        elif not self._proxied:
            self._enter(self._transport)

    def get_buffer(self, sizehint: int) -> bytearray:
        self._buffer = bytearray(missing(self._header))
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._header += self._buffer[:nbytes]
        try:
            if missing(self._header):
                return
            refusal = self._client.comes_from(source(self._header, address_of(transport)))
        except BadProxyHeader:
            transport.abort()
            return
        if refusal is not None:
            self._turn_away(transport, refusal)
        else:
            self._enter(transport)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._client.connection_lost(error)

    def _turn_away(self, transport: asyncio.Transport, refusal: ApiError) -> None:
        """In words where they can be read."""
        self._client.deadline = inf
        if self._tls is None:
            transport.write(last_words(refusal))
        transport.close()

    def _enter(self, transport: asyncio.Transport) -> None:
        transport.pause_reading()
        if self._tls is not None:
            self._handshake = asyncio.get_running_loop().create_task(self._shake_hands(transport, self._tls))
            return
        transport.set_protocol(self._client)
        self._client.use(transport)
        transport.resume_reading()

    async def _shake_hands(self, transport: asyncio.Transport, tls: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        try:
            secured = await loop.start_tls(
                transport, self._client, tls, server_side=True, ssl_handshake_timeout=HANDSHAKE_S
            )
        except OSError:  # ssl.SSLError and TimeoutError are; the transport is closed
            secured = None
        if secured is None:
            transport.abort()
            self._client.connection_lost(None)
        else:
            self._client.use(secured)
