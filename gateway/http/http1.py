"""HTTP/1.1 responses (RFC 9112): bytes in, status and body out. No socket here; the grammar is that of llhttp."""

from __future__ import annotations

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

MOST_HEAD_BYTES = 64 * 1024


class BadResponse(ValueError):
    """Not HTTP/1.1, or larger than what is reasonable."""


class ResponseParser:
    """Feed it what arrives, in order. One serves a connection: `begin` before each request.

    `heard`: a byte of it has come. `status` is 0 until the head is complete, `done` turns true with the last byte of
    the body, `reusable` says whether the connection may carry another request then. Raises BadResponse.
    """

    __slots__ = ("_body", "_head_bytes", "_parser", "_sized", "done", "heard", "reusable", "status")

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)
        self.begin()

    def begin(self) -> None:
        """A request is about to be sent."""
        self.heard = False
        self.status = 0
        self.reusable = True
        self.done = False
        self._sized = False  # its length or its chunks say where it ends
        self._head_bytes = 0
        self._body: list[bytes] = []

    def feed(self, data: bytes) -> None:
        self.heard = True
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self.reusable = False
            if not self.done:
                raise BadResponse(f"the answer is not usable HTTP/1.1 ({error})") from None
        if not self.status:
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES:
                raise BadResponse(f"the head is larger than {MOST_HEAD_BYTES} bytes")

    def feed_eof(self) -> None:
        """The connection ended. Raises BadResponse when the response had not."""
        if self.status and not self._sized:
            self.done, self.reusable = True, False
        if not self.done:
            raise BadResponse("the connection ended inside the response")

    def take(self) -> bytes:
        """The body that arrived since the last call."""
        body, self._body = self._body, []
        return body[0] if len(body) == 1 else b"".join(body)

    def buffered(self) -> bool:
        return bool(self._body)

    # -- called by httptools -----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.done:
            self.reusable = False  # bytes after the end belong to nothing that was asked

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.status and name.lower() in (b"content-length", b"transfer-encoding"):
            self._sized = True

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200 and not self.done:
            self.status = status
            self.reusable = self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        if not self.done:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self.status:  # not an interim answer (100 Continue)
            self.done = True
