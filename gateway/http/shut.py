"""The end of a connection, told at once."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress


def shut(transport: asyncio.Transport) -> None:
    """Tell the other side now that nobody is here any more, and not when the event loop comes to it.

    A request's room is given back in the step that drops its connection. Were the engine to hear of that later than of
    the next request, which another gateway may send in that very moment, it would have one more than it has room for.
    """
    with suppress(OSError, ValueError):  # closed already
        line = socket.socket(fileno=transport.get_extra_info("socket").fileno())
        try:
            line.shutdown(socket.SHUT_RDWR)
        finally:
            line.detach()
