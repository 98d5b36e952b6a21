"""What two programs in a row could read differently is refused, and nothing behind it is ever taken for a request.

Every case has a whole, valid request behind it: an edge that reads on would answer that too. Each is also sent byte by
byte, since a check that sees whole heads only is passed by slow ones.
"""

from __future__ import annotations

import asyncio

import pytest

from .conftest import MakeEdge, chunked, request

LINE = b"POST /v1/chat/completions HTTP/1.1\r\n"
HOST = b"Host: x\r\nx-api-key: k\r\n"
BODY = b"Content-Length: 2\r\n\r\n{}"
TE = b"Transfer-Encoding: chunked\r\n"
SMUGGLED = request(b'"smuggled"')


def fields(*lines: bytes) -> bytes:
    return LINE + HOST + b"".join(line + b"\r\n" for line in lines)


def lengths(value: bytes) -> bytes:
    return fields(b"Content-Length:" + value) + b"\r\n{}"


def codings(value: bytes) -> bytes:
    return fields(b"Transfer-Encoding:" + value) + b"\r\n0\r\n\r\n"


def targets(line: bytes) -> bytes:
    return line + b"\r\n" + HOST + BODY


def chunks(raw: bytes) -> bytes:
    return LINE + HOST + TE + b"\r\n" + raw


CASES = {
    # where a body ends
    "length and chunked": fields(b"Content-Length: 2", TE[:-2]) + b"\r\n0\r\n\r\n",
    "chunked and length": fields(TE[:-2], b"Content-Length: 2") + b"\r\n0\r\n\r\n",
    "length twice": fields(b"Content-Length: 2", b"Content-Length: 2") + b"\r\n{}",
    "two lengths": fields(b"Content-Length: 2", b"Content-Length: 3") + b"\r\n{}",
    "lengths in a list": lengths(b" 2, 2"),
    "length with plus": lengths(b" +2"),
    "length with minus": lengths(b" -2"),
    "length in hexadecimal": lengths(b" 0x2"),
    "length with a space in it": lengths(b" 2 2"),
    "length empty": lengths(b""),
    "length of a space": lengths(b" "),
    "length with a point": lengths(b" 2.0"),
    "length with underscore": lengths(b" 1_0"),
    "length beyond 64 bits": lengths(b" 99999999999999999999999999"),
    "length after a vertical tab": lengths(b" \x0b2"),
    "length in quotes": lengths(b' "2"'),
    "length in other digits": lengths(" ²".encode()),
    "coding gzip": codings(b" gzip"),
    "coding gzip, chunked": codings(b" gzip, chunked"),
    "coding chunked, gzip": codings(b" chunked, gzip"),
    "coding chunked, chunked": codings(b" chunked, chunked"),
    "coding twice": fields(TE[:-2], TE[:-2]) + b"\r\n0\r\n\r\n",
    "coding identity": codings(b" identity"),
    "coding xchunked": codings(b" xchunked"),
    "coding chunkedx": codings(b" chunkedx"),
    "coding after a vertical tab": codings(b" \x0bchunked"),
    "coding in quotes": codings(b' "chunked"'),
    "coding empty": codings(b" "),
    "coding with a comma": codings(b" chunked,"),
    "coding with a parameter": codings(b" chunked;q=1"),
    "coding in HTTP/1.0": codings(b" chunked").replace(b"HTTP/1.1", b"HTTP/1.0"),
    "coding with a space before the colon": fields(b"Transfer-Encoding : chunked") + b"\r\n0\r\n\r\n",
    # lines
    "folded by a space": fields(b"X: a", b" b") + BODY,
    "folded by a tab": fields(b"X: a", b"\tb") + BODY,
    "folded at the first line": LINE + b" X: a\r\n" + HOST + BODY,
    "bare LF after a field": LINE + HOST + b"X: a\n" + BODY,
    "bare LF after the first line": LINE[:-2] + b"\n" + HOST + BODY,
    "bare LF at the end of the head": LINE + HOST + b"Content-Length: 2\r\n\n{}",
    "bare LF everywhere": (LINE + HOST + BODY).replace(b"\r\n", b"\n"),
    "bare CR in a value": fields(b"X: a\rb") + BODY,
    "bare CR after a field": LINE + HOST + b"X: a\r" + BODY,
    "CR twice": LINE + HOST + b"X: a\r\r\n" + BODY,
    "NUL in a value": fields(b"X: a\x00b") + BODY,
    "NUL in a name": fields(b"X\x00: a") + BODY,
    "control character in a value": fields(b"X: a\x01b") + BODY,
    "DEL in a value": fields(b"X: a\x7fb") + BODY,
    "control character in a name": fields(b"X\x01: a") + BODY,
    "space before the colon": fields(b"X : a") + BODY,
    "tab before the colon": fields(b"X\t: a") + BODY,
    "no name": fields(b": a") + BODY,
    "no colon": fields(b"Xa") + BODY,
    "parentheses in a name": fields(b"X(a): 1") + BODY,
    "a name beyond ASCII": fields(b"X\xe9: 1") + BODY,
    # who is asked, and for whom
    "no Host": LINE + b"x-api-key: k\r\n" + BODY,
    "Host twice": fields(b"Host: x") + BODY,
    "two Hosts": fields(b"Host: y") + BODY,
    "Host with a comma": LINE + b"Host: a, b\r\nx-api-key: k\r\n" + BODY,
    "Host with a user": LINE + b"Host: a@b\r\nx-api-key: k\r\n" + BODY,
    "Host with a path": LINE + b"Host: a/b\r\nx-api-key: k\r\n" + BODY,
    "Host with a space": LINE + b"Host: a b\r\nx-api-key: k\r\n" + BODY,
    "two keys": fields(b"x-api-key: other") + BODY,
    "two Authorizations": fields(b"Authorization: Bearer a", b"Authorization: Bearer b") + BODY,
    # the first line
    "absolute target": targets(b"POST http://x/v1/chat/completions HTTP/1.1"),
    "authority target": targets(b"POST x:80 HTTP/1.1"),
    "asterisk target": targets(b"OPTIONS * HTTP/1.1"),
    "CONNECT": targets(b"CONNECT x:80 HTTP/1.1"),
    "no target": targets(b"POST HTTP/1.1"),
    "target without slash": targets(b"POST v1/chat/completions HTTP/1.1"),
    "fragment in the target": targets(b"POST /v1/chat/completions#f HTTP/1.1"),
    "NUL in the target": targets(b"POST /v1/chat\x00 HTTP/1.1"),
    "target beyond ASCII": targets(b"POST /v1/chat\xe9 HTTP/1.1"),
    "space in the target": targets(b"POST /v1/chat completions HTTP/1.1"),
    "two spaces after the method": targets(b"POST  /v1/chat/completions HTTP/1.1"),
    "two spaces before the version": targets(b"POST /v1/chat/completions  HTTP/1.1"),
    "a space behind the version": targets(b"POST /v1/chat/completions HTTP/1.1 "),
    "a tab after the method": targets(b"POST\t/v1/chat/completions HTTP/1.1"),
    "a space before the method": targets(b" POST /v1/chat/completions HTTP/1.1"),
    "method in small letters": targets(b"post /v1/chat/completions HTTP/1.1"),
    "method of nobody": targets(b"FOO /v1/chat/completions HTTP/1.1"),
    # versions and other protocols
    "no version": targets(b"POST /v1/chat/completions"),
    "HTTP/0.9": targets(b"POST /v1/chat/completions HTTP/0.9"),
    "HTTP/0.9 in one line": b"GET /\r\n",
    "HTTP/1.2": targets(b"POST /v1/chat/completions HTTP/1.2"),
    "HTTP/1.10": targets(b"POST /v1/chat/completions HTTP/1.10"),
    "HTTP/2.0": targets(b"POST /v1/chat/completions HTTP/2.0"),
    "http in small letters": targets(b"POST /v1/chat/completions http/1.1"),
    "preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "RTSP": targets(b"OPTIONS / RTSP/1.0"),
    "ICE": targets(b"SOURCE /v1/chat/completions ICE/1.0"),
    "h2c with chunks": chunked(b"{}", fields=b"Connection: Upgrade\r\nUpgrade: h2c\r\n"),
    "TLS to a port without": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    # chunks
    "chunk size of other letters": chunks(b"zz\r\n{}\r\n0\r\n\r\n"),
    "chunk size with 0x": chunks(b"0x2\r\n{}\r\n0\r\n\r\n"),
    "chunk size with plus": chunks(b"+2\r\n{}\r\n0\r\n\r\n"),
    "chunk size with minus": chunks(b"-2\r\n{}\r\n0\r\n\r\n"),
    "chunk size with a space behind": chunks(b"2 \r\n{}\r\n0\r\n\r\n"),
    "chunk size with a space before": chunks(b" 2\r\n{}\r\n0\r\n\r\n"),
    "chunk size empty": chunks(b"\r\n{}\r\n0\r\n\r\n"),
    "chunk size beyond 64 bits": chunks(b"10000000000000002\r\n{}\r\n0\r\n\r\n"),
    "chunk size before a bare LF": chunks(b"2\n{}\r\n0\r\n\r\n"),
    "chunk size before a bare CR": chunks(b"2\r{}\r\n0\r\n\r\n"),
    "chunk before a bare LF": chunks(b"2\r\n{}\n0\r\n\r\n"),
    "chunk longer than its size": chunks(b"2\r\n{}x\r\n0\r\n\r\n"),
    "chunk shorter than its size": chunks(b"3\r\n{}\r\n0\r\n\r\n"),
    "extension with a bare LF": chunks(b"2;a=\nb\r\n{}\r\n0\r\n\r\n"),
    "extension with a bare CR": chunks(b"2;a=\rb\r\n{}\r\n0\r\n\r\n"),
    "extension with NUL": chunks(b"2;a=\x00b\r\n{}\r\n0\r\n\r\n"),
    "trailer without colon": chunked(b"{}", trailer=b"x y\r\n"),
    "trailer with a length": chunked(b"{}", trailer=b"Content-Length: 5\r\n"),
    "trailer with a coding": chunked(b"{}", trailer=b"Transfer-Encoding: chunked\r\n"),
    "trailer before a bare LF": chunked(b"{}", trailer=b"x: a\n\r\n"),
}
HARMLESS = {
    "an empty line before": b"\r\n" + LINE + HOST + BODY,
    "spaces around a length": lengths(b" \t2 "),
    "zeros before a length": lengths(b" 0002"),
    "chunked in other letters": codings(b" CHUNKED"),
    "bytes beyond ASCII in a value": fields(b"X: \xe9") + BODY,
    "an empty value": fields(b"X:") + BODY,
    "an upgrade that is not asked for now": fields(b"Upgrade: h2c") + BODY,
    "WebSocket": fields(b"Connection: Upgrade", b"Upgrade: websocket") + BODY,
    "h2c": fields(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AA") + BODY,
    "h2c without a body": fields(b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 0") + b"\r\n",
    "a query": targets(b"POST /v1/chat/completions?a=%20&b=/ HTTP/1.1"),
    "an empty Host": LINE + b"Host:\r\nx-api-key: k\r\n" + BODY,
    "an address for a Host": LINE + b"Host: [::1]:8080\r\nx-api-key: k\r\n" + BODY,
    "an extension": chunks(b'2;a=b;c="d"\r\n{}\r\n0\r\n\r\n'),
    "a trailer that looks like a key": chunked(b"{}", trailer=b"x-api-key: other\r\nHost: y\r\n"),
    "zeros before a chunk size": chunks(b"0000002\r\n{}\r\n000\r\n\r\n"),
}


def test_there_are_as_many_cases_as_were_ever_refused() -> None:
    assert len(CASES) >= 79


@pytest.mark.parametrize("name", CASES)
async def test_refused_whole_and_in_bytes(make_edge: MakeEdge, name: str) -> None:
    edge = await make_edge()
    assert (await edge.ask(CASES[name] + SMUGGLED))[0] == [400]
    wire = await edge.connect()
    for byte in CASES[name]:
        wire.send(bytes([byte]))
        await asyncio.sleep(0)
    wire.send(SMUGGLED)
    assert (await wire.rest())[0] == [400]
    assert edge.desk.seen == [], "something was taken for a request"


@pytest.mark.parametrize("name", HARMLESS)
async def test_served_and_what_is_behind_it_too(make_edge: MakeEdge, name: str) -> None:
    """The control of the above: with these an edge that refuses everything would fail."""
    edge = await make_edge()
    assert (await edge.ask(HARMLESS[name] + SMUGGLED))[0] == [200, 200]
    assert edge.desk.seen[1] == b'"smuggled"'
