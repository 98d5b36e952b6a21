"""One client request as the hot path sees it (see ports.Call)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, final

from gateway.config.schema import TenantConfig
from gateway.errors import ApiError
from gateway.http.answers import CHUNKED, CLOSE, CONTINUE, EVENTS, KEPT, LAST_CHUNK, chunk, head


class Client(Protocol):
    """The connection that a call came by."""

    def date(self) -> bytes:
        """The header line that says what time it is."""

    def write(self, data: bytes) -> None:
        """Raises ClientGone."""

    def release(self, call: HttpCall) -> None:
        """Its body is not kept any more."""

    def answered(self, call: HttpCall) -> None:
        """The answer is complete."""


@final
class HttpCall:
    """`keep`: the connection may carry another request after this one. `unread`: bytes of its body may still come.

    `payload` and `fault` are what `body` will return or raise; either is there before the call is served. `held`: bytes
    of its body that are accounted for.
    """

    __slots__ = (
        "_chunked",
        "_client",
        "_head",
        "_sent",
        "fault",
        "held",
        "http10",
        "keep",
        "key",
        "method",
        "over",
        "path",
        "payload",
        "request_id",
        "tenant",
        "unread",
    )

    def __init__(self, client: Client, request_id: str, keep: bool) -> None:
        self.method = ""
        self.path = ""
        self.key: str | None = None
        self.http10 = False
        self.request_id = request_id
        self.keep = keep
        self.unread = False
        self.over = False
        self.tenant: TenantConfig | None = None
        self.fault: ApiError | None = None
        self.payload = b""
        self.held = 0
        self._client = client
        self._chunked = False
        self._head = b""  # of an answer of events, until the first of them go out
        self._sent = False

    def body(self) -> bytes:
        if self.fault is not None:
            raise self.fault
        payload, self.payload = self.payload, b""  # whoever asks keeps it from here on
        return payload

    def release_body(self) -> None:
        self._client.release(self)

    def begin(self, headers: Mapping[str, str]) -> None:
        """The head waits for the first events, which are there when it begins: one write less a request."""
        self._chunked = not self.http10
        if self.http10:  # its end is that of the connection
            self.keep = False
        framing = CHUNKED if self._chunked else b""
        self._head = head(200, headers, self._client.date() + EVENTS + framing + self._fate())

    def send(self, data: bytes) -> None:
        self._write(chunk(data) if self._chunked else data)

    def end(self, data: bytes) -> None:
        self._finish(chunk(data) + LAST_CHUNK if self._chunked else data)

    def reply(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.whole(status, "application/json", body, headers)

    def whole(self, status: int, content_type: str, body: bytes, headers: Mapping[str, str]) -> None:
        """A whole answer of any type; the head of it alone to HEAD. Raises ClientGone."""
        fields = f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n".encode("latin-1")
        self._head = head(status, headers, self._client.date() + fields + self._fate())
        self._finish(b"" if self.method == "HEAD" else body)

    def refuse(self, error: ApiError) -> None:
        self.reply(error.status, error.body(), {"x-request-id": self.request_id, **error.headers})

    def sign_of_life(self) -> bytes:
        """Bytes that change nothing about the answer, wherever it is.

        Before its head 100 Continue. Inside a chunked one a zero: the size of the next chunk then reads `05` and not
        `5`, of the last one `00`, which is the same number (RFC 9112, 7.1).
        """
        if not self._sent:
            return CONTINUE
        return b"0" if self._chunked else b""

    def _fate(self) -> bytes:
        if not self.keep:
            return CLOSE
        return KEPT if self.http10 else b""

    def _write(self, data: bytes) -> None:
        if self._head:
            data, self._head, self._sent = self._head + data, b"", True
        if data:
            self._client.write(data)

    def _finish(self, data: bytes) -> None:
        self.over = True
        self._write(data)
        self._client.answered(self)
