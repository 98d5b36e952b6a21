"""A client's bytes in, one request after the other out. No socket here; the grammar is that of llhttp.

llhttp reads on into the next request when it is given its bytes, and does not say where the one before ended. So it
never gets them: a head and a chunked message both end in an empty line, and it is fed up to the next CR LF CR LF only.
With Content-Length the body is cut out here. One parser serves one request, so nothing of it reaches the next.
"""

from __future__ import annotations

from typing import Final, final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from gateway.errors import BodyTooLarge, HeadTooLarge
from gateway.http.head import Head, bad_request, check_line

_END: Final = b"\r\n\r\n"
_CHUNK: Final = 16
"""Bytes around a chunk that need no explanation: its size in hexadecimal and two line ends."""


@final
class RequestReader:
    """`head` appears when the head is whole, `done` turns true with the last byte of the body, of which there are
    `size` here.

    After an error it must not be fed again. After a request `begin` the next.
    """

    __slots__ = (
        "_body",
        "_chunks",
        "_framing",
        "_most_body",
        "_most_head",
        "_parser",
        "_raw",
        "_tail",
        "done",
        "head",
        "keep",
        "size",
    )

    def __init__(self, most_head: int, most_body: int) -> None:
        self._most_head = most_head
        self._most_body = most_body
        self.begin()

    def begin(self) -> None:
        self._parser: HttpRequestParser | None = None  # only while it is needed: it and this refer to each other
        self.head: Head | None = None
        self.keep: bool = False
        self.done: bool = False
        self._raw: bytearray | None = None  # what came of a head that is not whole
        self._tail = b""  # the last bytes of a chunked body that is not whole
        self._body: bytes | bytearray = b""
        self.size = 0
        self._framing = 0
        self._chunks = 0

    @property
    def started(self) -> bool:
        return self.head is not None or self._raw is not None

    def body(self) -> bytes:
        return bytes(self._body)

    def feed(self, data: bytes) -> bytes:
        """Read on, to the end of the head or of the body at most; what is left. Raises ApiError."""
        if self.head is None:
            return self._feed_head(data)
        return self._feed_chunked(data) if self.head.length < 0 else self._feed_body(data, self.head.length)

    # -- the head ----------------------------------------------------------------------------------------------

    def _feed_head(self, data: bytes) -> bytes:
        if self._raw is None:
            data = data.lstrip(b"\r\n")  # empty lines before a request are to be forgiven (RFC 9112, 2.2)
            if not data:
                return b""
            self._parser = HttpRequestParser(self)
            if (end := _after_end(data, 0)) > 0:
                return self._head_is(data[:end], data[:end], data[end:])
            self._raw = bytearray()
        return self._feed_part(self._raw, data)

    def _feed_part(self, raw: bytearray, data: bytes) -> bytes:
        """Heads that come in pieces. llhttp gets each of them at once, so that nonsense is not waited for."""
        before = len(raw)
        raw += data
        if (end := _after_end(raw, max(0, before - 3))) > 0:
            mine = end - before
            return self._head_is(bytes(raw[:end]), data[:mine], data[mine:])
        self._check_head_size(before + len(data))
        self._parse(data)
        if b"\r\n" in raw:
            check_line(raw)
        return b""

    def _head_is(self, raw: bytes, piece: bytes, rest: bytes) -> bytes:
        self._check_head_size(len(raw))
        self._parse(piece)
        self.head = head = Head(raw)
        if head.length < 0 and self._parser is not None and self._parser.should_upgrade():  # llhttp reads no chunks
            raise bad_request("a body in chunks cannot come with Upgrade here; send Content-Length, or no Upgrade")
        self.done = head.length == 0
        self._raw = None
        if head.length >= 0:
            self._parser = None
        return rest

    def _check_head_size(self, size: int) -> None:
        if size > self._most_head:
            raise HeadTooLarge("head_too_large", f"The head is larger than {self._most_head} bytes, the limit here.")

    def _parse(self, piece: bytes | memoryview) -> None:
        assert self._parser is not None
        try:
            self._parser.feed_data(piece)
        except HttpParserUpgrade:  # at the end of a request that would rather go on in another protocol. Nobody has to
            pass  # follow (RFC 9110, 7.8), and some libraries ask everybody for HTTP/2
        except HttpParserError as error:
            raise bad_request(str(error) or "llhttp refused it") from None

    # -- the body ----------------------------------------------------------------------------------------------

    def _feed_body(self, data: bytes, length: int) -> bytes:
        missing = length - self.size
        piece, rest = (data, b"") if len(data) <= missing else (data[:missing], data[missing:])
        self.on_body(piece)
        self.done = self.size == length
        return rest

    def _feed_chunked(self, data: bytes) -> bytes:
        """From empty line to empty line; up to three bytes of the first may have come before, and are in `_tail`."""
        view, start = memoryview(data), 0
        begun = (self._tail + data[:3]).find(_END)
        end = begun + 4 - len(self._tail) if begun >= 0 else _after_end(data, 0)
        while end > 0:
            self._feed_chunks(view[start:end])
            if self.done:
                self._parser = None
                return data[end:]
            start, end = end, _after_end(data, end)
        self._feed_chunks(view[start:])
        self._tail = (self._tail + data[-3:])[-3:]
        return b""

    def _feed_chunks(self, piece: memoryview) -> None:
        before = self.size
        self._parse(piece)
        self._framing += len(piece) - (self.size - before)
        if self.size > self._most_body:
            raise self._too_large()
        if self._framing > self._most_head + _CHUNK * self._chunks:
            raise HeadTooLarge("head_too_large", f"Extensions or trailers are larger than {self._most_head} bytes.")

    def too_long(self) -> BodyTooLarge | None:
        """What the head says about the body's length."""
        return self._too_large() if self.head is not None and self.head.length > self._most_body else None

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge("body_too_large", f"The body is larger than {self._most_body} bytes, the limit here.")

    # -- called by httptools, whose parser passes on no error of ours -----------------------------------------

    def on_headers_complete(self) -> None:
        """Asked later it would not know: it forgets at the end of a message, which for a GET without a body is here."""
        if self._parser is not None:
            self.keep = self._parser.should_keep_alive()

    def on_chunk_header(self) -> None:
        self._chunks += 1

    def on_body(self, piece: bytes) -> None:
        self.size += len(piece)
        if not self._body:
            self._body = piece
        elif isinstance(self._body, bytes):
            self._body = bytearray(self._body) + piece
        else:  # bytes of a body that comes one by one must not each be an object
            self._body += piece

    def on_message_complete(self) -> None:
        if self.head is not None and self.head.length < 0:
            self.done = True


def _after_end(data: bytes | bytearray, start: int) -> int:
    """Where the next empty line is over; -1 without one."""
    found = data.find(_END, start)
    return found + 4 if found >= 0 else -1
