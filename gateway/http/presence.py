"""Whether a client that has sent its end is still there.

A client that only will not send any more (shutdown of its side) and one that has closed look alike: each sends a FIN.
The difference shows when something is sent to them: the one that has closed answers with a reset. The event loop
does not read any more after the end, so it does not see that; the state of the connection does.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final, final

FIRST_LOOK: Final = 0.05
LOOK_EVERY: Final = 1.0
"""Seconds from sending something to the first look for a reset, and between looks from then on."""
SIGNS_AT: Final = (0, 4, 20, 80)
"""The looks at which something is sent. Few, because some clients take only so many interim answers (Go: five)."""
_TCP_INFO: Final[int | None] = getattr(socket, "TCP_INFO", None)
_CLOSED: Final = 7  # TCP_CLOSE, of the states in Linux's tcp_states.h; TCP_INFO begins with the state


def is_reset(transport: asyncio.Transport) -> bool:
    """The other side has refused what was sent. False where that cannot be told: the next write fails then."""
    link = transport.get_extra_info("socket")
    if _TCP_INFO is None or link is None:
        return False
    try:
        return bool(link.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 1)[0] == _CLOSED)
    except (OSError, ValueError):  # not TCP; or closed already
        return False


@final
class Watch:
    """Looks after a client from its end on. `sign` sends it something harmless. One that is gone is cut off."""

    def __init__(self, transport: asyncio.Transport, sign: Callable[[], None]) -> None:
        self._transport = transport
        self._sign = sign
        self._looks = 0
        self._timer: asyncio.TimerHandle | None = None
        self._look()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        if self._transport.is_closing():
            return
        if is_reset(self._transport):
            self._transport.abort()
            return
        if self._looks in SIGNS_AT:
            self._sign()
        delay = LOOK_EVERY if self._looks else FIRST_LOOK
        self._looks += 1
        self._timer = asyncio.get_running_loop().call_later(delay, self._look)
