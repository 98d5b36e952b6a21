"""HTTP/1.1 responses (RFC 9112): bytes in, status and body out. No socket here.

Written for one purpose, relaying many small chunks cheaply: a general client costs several times as much per request.
"""

from __future__ import annotations

from collections.abc import Callable

MOST_HEAD_BYTES = 64 * 1024
MOST_LINE_BYTES = 4096


class BadResponse(ValueError):
    """Not HTTP/1.1, or larger than what is reasonable."""


class ResponseParser:
    """Feed it what arrives, in order, from the start of one response.

    `status` is 0 until the head is complete, `done` turns true with the last byte of the body, `reusable` says
    whether the connection may carry another request then. Raises BadResponse.
    """

    __slots__ = ("_body", "_left", "_rest", "_step", "done", "reusable", "status")

    def __init__(self) -> None:
        self.status = 0
        self.reusable = True
        self.done = False
        self._rest = b""
        self._left = 0
        self._body: list[bytes] = []
        self._step: Callable[[], bool] = self._head

    def feed(self, data: bytes) -> None:
        self._rest = self._rest + data if self._rest else data
        while not self.done and self._step():
            pass
        if self.done and self._rest:
            self.reusable = False  # bytes after the end belong to nothing that was asked

    def feed_eof(self) -> None:
        """The connection ended. Raises BadResponse when the response had not."""
        if self._step == self._until_close:
            self.done, self.reusable = True, False
        if not self.done:
            raise BadResponse("the connection ended inside the response")

    def take(self) -> bytes:
        """The body that arrived since the last call."""
        body, self._body = self._body, []
        return body[0] if len(body) == 1 else b"".join(body)

    def buffered(self) -> bool:
        return bool(self._body)

    # -- steps: each takes something from `_rest` and says whether there may be more to take ------------------------

    def _head(self) -> bool:
        head, separator, rest = self._rest.partition(b"\r\n\r\n")
        if not separator:
            _limit(self._rest, MOST_HEAD_BYTES, "head")
            return False
        self._rest = rest
        status_line, *lines = head.split(b"\r\n")
        status = _status(status_line)
        if 100 <= status < 200:
            return True
        self._read_headers(status_line, lines)
        if status in (204, 304):
            self._step, self._left = self._by_length, 0
        self.status = status
        if self._step == self._by_length and not self._left:
            self.done = True
        return True

    def _read_headers(self, status_line: bytes, lines: list[bytes]) -> None:
        headers = {}
        for line in lines:
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip()
        connection = headers.get(b"connection", b"").lower()
        self.reusable = b"close" not in connection and not status_line.startswith(b"HTTP/1.0")
        if b"chunked" in headers.get(b"transfer-encoding", b"").lower():
            self._step = self._chunk_size
        elif b"content-length" in headers:
            self._step, self._left = self._by_length, _number(headers[b"content-length"], 10)
        else:
            self._step = self._until_close

    def _by_length(self) -> bool:
        part, self._rest = self._rest[: self._left], self._rest[self._left :]
        self._left -= len(part)
        if part:
            self._body.append(part)
        self.done = self._left == 0
        return False

    def _until_close(self) -> bool:
        if self._rest:
            self._body.append(self._rest)
            self._rest = b""
        return False

    def _chunk_size(self) -> bool:
        line, separator, rest = self._rest.partition(b"\r\n")
        if not separator:
            _limit(self._rest, MOST_LINE_BYTES, "chunk size")
            return False
        self._rest = rest
        self._left = _number(line.partition(b";")[0], 16)
        self._step = self._chunk if self._left else self._trailer
        return True

    def _chunk(self) -> bool:
        rest, left = self._rest, self._left
        if len(rest) < left + 2:
            part = rest[:left]
            if part:
                self._body.append(part)
                self._left, self._rest = left - len(part), rest[left:]
            return False
        if rest[left : left + 2] != b"\r\n":
            raise BadResponse("a chunk does not end where it said")
        if left:
            self._body.append(rest[:left])
        self._rest, self._step = rest[left + 2 :], self._chunk_size
        return True

    def _trailer(self) -> bool:
        line, separator, rest = self._rest.partition(b"\r\n")
        if not separator:
            _limit(self._rest, MOST_LINE_BYTES, "trailer")
            return False
        self._rest = rest
        self.done = not line
        return True


def _status(line: bytes) -> int:
    version, _, rest = line.partition(b" ")
    if not version.startswith(b"HTTP/1."):
        raise BadResponse("the answer is not HTTP/1.1")
    return _number(rest[:3], 10)


def _number(text: bytes, base: int) -> int:
    digits = text.strip()
    if not digits.isalnum():
        raise BadResponse("a number was expected")
    try:
        return int(digits, base)
    except ValueError:
        raise BadResponse("a number was expected") from None


def _limit(data: bytes, most: int, what: str) -> None:
    if len(data) > most:
        raise BadResponse(f"the {what} is larger than {most} bytes")
