"""The bytes of answers to clients, all but what differs made once."""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from gateway.errors import ApiError

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
"""An interim answer, which every client of HTTP/1.1 has to expect at any time before the final one."""
LAST_CHUNK: Final = b"0\r\n\r\n"
EVENTS: Final = (
    b"Content-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"
)
CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
CLOSE: Final = b"Connection: close\r\n"
KEPT: Final = b"Connection: keep-alive\r\n"
"""A client of HTTP/1.0 asks for it, and must hear that it was granted."""
_LINES: Final = {int(status): f"HTTP/1.1 {int(status)} {status.phrase}\r\n".encode() for status in HTTPStatus}


def head(status: int, headers: Mapping[str, str], rest: bytes) -> bytes:
    """The head of an answer. `rest` are header lines that were made before; the empty line is added here."""
    line = _LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
    fields = "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode("latin-1", "replace")
    return line + fields + rest + b"\r\n"


def chunk(data: bytes) -> bytes:
    """One of a chunked answer; nothing for no data, since an empty chunk is the last."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def date() -> bytes:
    return b"Date: %b\r\n" % formatdate(usegmt=True).encode()


def last_words(error: ApiError) -> bytes:
    """A whole answer to somebody whose request is not read, after which the connection is closed."""
    body = error.body()
    rest = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body) + CLOSE
    return head(error.status, error.headers, rest) + body
