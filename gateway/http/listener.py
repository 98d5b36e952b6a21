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


def unix_socket(path: str) -> socket.socket:
    """Listen at `path`. What a dead process left there is replaced; a living one's is an error. Raises OSError."""
    if os.path.lexists(path):
        _clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
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
