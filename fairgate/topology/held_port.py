"""A port that several processes of ours share (SO_REUSEPORT), held by their parent, which does not listen itself.

Whoever binds with SO_REUSEPORT may join those who have, without a word: a second gateway started by mistake would take
half of the first one's connections. So it is asked first whether the port is free, as by somebody who will not share.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple


class _Address(NamedTuple):
    family: int
    sockaddr: Any

    def at(self, port: int) -> _Address:
        host, _, *rest = self.sockaddr
        return _Address(self.family, (host, port, *rest))

    def bound(self, *, share: bool) -> socket.socket:
        taken = socket.socket(self.family, socket.SOCK_STREAM)
        try:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what its last owner's connections left
            if share:
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if self.family == socket.AF_INET6:
                taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            taken.bind(self.sockaddr)
        except OSError:
            taken.close()
            raise
        return taken


@contextmanager
def held_port(host: str, port: int) -> Iterator[int]:
    """`port`, or a free one for 0, at every address of `host`: nobody else gets it meanwhile, also while all who listen
    there are down. Raises OSError when somebody listens there, or the host is unknown."""
    with ExitStack() as held:
        for address in _addresses(host):
            with address.at(port).bound(share=False) as probe:
                port = probe.getsockname()[1]
            held.enter_context(address.at(port).bound(share=True))
        yield port


def _addresses(host: str) -> list[_Address]:
    found = socket.getaddrinfo(host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys(_Address(family, sockaddr) for family, _, _, _, sockaddr in found))
