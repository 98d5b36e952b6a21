"""Responses of workers: wherever a response is cut, the same comes out, and what is not HTTP is refused."""

from __future__ import annotations

import pytest

from gateway.http.http1 import BadResponse, ResponseParser

CHUNKED = b"".join(
    (
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nContent-Type: text/event-stream\r\n\r\n",
        b"5;x=y\r\nhello\r\nA\r\n\r\n\r\n\r\n\r\n\r\n\r\n0\r\nTrailer: 1\r\n\r\n",
    )
)
PLAIN = b"HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\nConnection: close\r\n\r\nhello"


@pytest.mark.parametrize(
    ("raw", "status", "body", "reusable"),
    [(CHUNKED, 200, b"hello" + b"\r\n" * 5, True), (PLAIN, 404, b"hello", False)],
)
def test_a_response_cut_at_every_byte(raw: bytes, status: int, body: bytes, reusable: bool) -> None:
    for cut in range(len(raw) + 1):
        parser = ResponseParser()
        parser.feed(raw[:cut])
        got = parser.take()
        assert parser.done is (cut == len(raw))
        parser.feed(raw[cut:])
        assert (parser.status, got + parser.take(), parser.done, parser.reusable) == (status, body, True, reusable)


def test_a_response_without_length_ends_with_the_connection() -> None:
    parser = ResponseParser()
    parser.feed(b"HTTP/1.1 200 OK\r\n\r\nhel")
    parser.feed(b"lo")
    assert not parser.done
    parser.feed_eof()
    assert (parser.take(), parser.done, parser.reusable) == (b"hello", True, False)


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc",
        b"x" * 70_000,
    ],
)
def test_what_is_not_http_is_refused(raw: bytes) -> None:
    with pytest.raises(BadResponse):
        ResponseParser().feed(raw)


@pytest.mark.parametrize("raw", [b"", PLAIN[:-1], CHUNKED[:-1], b"HTTP/1.1 200"])
def test_a_connection_that_ends_too_soon_is_noticed(raw: bytes) -> None:
    parser = ResponseParser()
    parser.feed(raw)
    with pytest.raises(BadResponse):
        parser.feed_eof()
