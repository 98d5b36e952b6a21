"""What stands in the head of a client's request, and the checks that llhttp leaves to us.

llhttp has proved the grammar of every line when these are read: no bare CR or LF, no folded line, no control
character, no space before a colon, one sane Content-Length and none beside Transfer-Encoding. What it lets pass, and
two programs in a row could read differently, is refused here: all other forms of a target than a path, versions other
than 1.0 and 1.1, a missing Host, a repeated line of those that are read, every transfer coding but chunked itself
(llhttp takes `gzip, chunked` for chunked), and any at all in HTTP/1.0.
"""

from __future__ import annotations

import re
from random import getrandbits
from typing import Final, final

from gateway.errors import ApiError, ExpectationFailed, Invalid, UnsupportedBody

_LINE: Final = re.compile(rb"([A-Z]+) (/[!-\"$-~]*) HTTP/1\.([01])\r\n")
_FIELD: Final = re.compile(
    rb"\n(host|authorization|x-api-key|x-request-id|content-length|transfer-encoding|content-encoding|expect):"
    rb"[ \t]*([^\r\n]*?)[ \t]*\r",
    re.IGNORECASE,
)
_HOST: Final = re.compile(rb"[A-Za-z0-9._~%!$&'()*+;=:\[\]-]*")
_SANE_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_BODY_CODINGS: Final = (b"", b"identity")


def check_line(head: bytes | bytearray) -> re.Match[bytes]:
    """The request line. Raises Invalid."""
    if (line := _LINE.match(head)) is None:
        raise bad_request("the request line is not METHOD /path HTTP/1.1")
    return line


def bad_request(why: str) -> Invalid:
    return Invalid("bad_request", f"This is not a request that can be understood one way only: {why}.")


@final
class Head:
    """`length` of the body in bytes, -1 for a chunked one. `expects`: the client waits for 100 Continue."""

    __slots__ = ("_fields", "expects", "http10", "key", "length", "method", "path", "request_id")

    def __init__(self, raw: bytes) -> None:
        """`raw` from the first byte of the request line to the empty line, accepted by llhttp. Raises Invalid."""
        line = check_line(raw)
        self.method: str = line[1].decode("ascii")
        self.path: str = line[2].partition(b"?")[0].decode("ascii")
        self.http10: bool = line[3] == b"0"
        self._fields: dict[bytes, bytes] = {}
        for name, value in _FIELD.findall(raw):
            if (name := name.lower()) in self._fields:
                raise bad_request(f"{name.decode()} stands there more than once")
            self._fields[name] = value
        self._check_host()
        self.length: int = self._length()
        self.expects: bool = False
        self.key: str | None = bearer(self._text(b"authorization"), self._text(b"x-api-key"))
        self.request_id: str = request_id(self._text(b"x-request-id"))

    @property
    def has_body(self) -> bool:
        return self.length != 0

    def obstacle(self) -> ApiError | None:
        """Why the body will not be read, whoever sent it. What it tells about `expects` is set here too."""
        coding = self._fields.get(b"content-encoding", b"").lower()
        if coding not in _BODY_CODINGS:
            return UnsupportedBody(
                "unsupported_content_encoding",
                f"Content-Encoding is {coding.decode('latin-1')[:64]!r}; expected a body that is not compressed.",
            )
        expected = self._fields.get(b"expect")
        if expected is None:
            return None
        if expected.lower() != b"100-continue":
            return ExpectationFailed("expectation_failed", "Expect is known here with the value 100-continue only.")
        self.expects = not self.http10
        return None

    def _text(self, name: bytes) -> str | None:
        value = self._fields.get(name)
        return None if value is None else value.decode("utf-8", "surrogateescape")

    def _check_host(self) -> None:
        host = self._fields.get(b"host")
        if host is None and not self.http10:
            raise bad_request("there is no Host")
        if host is not None and _HOST.fullmatch(host) is None:
            raise bad_request("Host is not a name or an address with or without a port")

    def _length(self) -> int:
        coding = self._fields.get(b"transfer-encoding")
        if coding is None:
            return int(self._fields.get(b"content-length", b"0"))
        if self.http10:
            raise bad_request("HTTP/1.0 has no Transfer-Encoding")
        if coding.lower() != b"chunked":
            raise bad_request("Transfer-Encoding is something else than chunked")
        return -1


def bearer(authorization: str | None, x_api_key: str | None) -> str | None:
    """The key a client sent: `Authorization: Bearer KEY`, else `x-api-key: KEY`."""
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return x_api_key


def request_id(sent: str | None) -> str:
    """The client's own id of the request where it is harmless, else a new one."""
    return sent if sent is not None and _SANE_ID.fullmatch(sent) else f"{getrandbits(128):032x}"
