"""Sockets to listen on."""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import Final

from gateway.config.schema import Listen

BACKLOG: Final = 4096
"""A listen backlog of the usual 128 stalls 256 simultaneous clients for a second (SYN retransmission)."""


def listeners(listen: Listen, *, reuse_port: bool) -> list[socket.socket]:
    """One for each address of the host. `reuse_port`: other processes of ours listen there too; the system gives each
    connection to one of them. Raises OSError."""
    if listen.unix is not None:
        return [unix_socket(listen.unix)]
    found = socket.getaddrinfo(listen.host or None, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    made: list[socket.socket] = []
    port = listen.port
    try:
        for family, (host, _, *rest) in dict.fromkeys((family, address) for family, _, _, _, address in found):
            address = (host, port, *rest)
            made.append(socket.create_server(address, family=family, backlog=BACKLOG, reuse_port=reuse_port))
            made[-1].setblocking(False)
            port = made[-1].getsockname()[1]  # where any is free the same for all
    except OSError:
        for listener in made:
            listener.close()
        raise
    return made


def unix_socket(path: str) -> socket.socket:
    """Listen at `path`. What a dead process left there is replaced; a living one's is an error. Raises OSError."""
    if os.path.lexists(path):
        _clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.setblocking(False)
    try:
        listener.bind(path)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _clear(path: str) -> None:
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise OSError(errno.EEXIST, f"{path} is there and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
        knock.settimeout(1.0)
        try:
            knock.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except TimeoutError:
            pass  # a full backlog is a sign of life too
    raise OSError(errno.EADDRINUSE, f"{path} is in use by a running process")


def describe(listen: Listen, port: int) -> str:
    """The address that clients use."""
    if listen.unix is not None:
        return f"unix:{listen.unix}"
    host = f"[{listen.host}]" if ":" in listen.host else listen.host
    return f"{'http' if listen.tls is None else 'https'}://{host}:{port}"
