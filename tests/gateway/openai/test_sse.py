"""Bytes in, events out: wherever a stream is cut, the same events come out."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UpstreamError
from gateway.http.http1 import BadResponse, ResponseParser
from gateway.openai.meter import Meter
from gateway.openai.sse import SseParser, frame

DATA = st.text(alphabet=st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=8).map(str.encode)
EVENT = st.lists(DATA, min_size=1, max_size=3)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(places)]


def written(events: list[list[bytes]], end: bytes, noise: bool) -> bytes:
    out = b"\xef\xbb\xbf" if noise else b""
    for lines in events:
        if noise:
            out += b": comment" + end + b"event: x" + end + b"id" + end
        out += b"".join(b"data:" + (b" " if noise or line[:1] == b" " else b"") + line + end for line in lines) + end
    return out


@given(st.lists(EVENT, max_size=5), st.sampled_from([b"\n", b"\r\n", b"\r"]), st.booleans(), st.lists(st.integers(0)))
def test_events_survive_every_line_ending_noise_and_cut(
    events: list[list[bytes]], end: bytes, noise: bool, cuts: list[int]
) -> None:
    parser = SseParser()
    got = [data for piece in pieces(written(events, end, noise), cuts) for data in parser.feed(piece)]
    assert got == [b"\n".join(lines) for lines in events]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_cut_at_every_single_byte(end: bytes) -> None:
    stream = written([[b"a"], [b"b", b""], ["é".encode()], [b"[DONE]"]], end, True)
    for cut in range(len(stream) + 1):
        parser = SseParser()
        got = parser.feed(stream[:cut]) + parser.feed(stream[cut:])
        assert got == [b"a", b"b\n", "é".encode(), b"[DONE]"], cut


@given(st.lists(DATA.filter(lambda data: b"\r" not in data), min_size=1, max_size=3))
def test_a_framed_event_reads_back(lines: list[bytes]) -> None:
    assert SseParser().feed(frame(b"\n".join(lines))) == [b"\n".join(lines)]


def test_an_event_is_handed_out_as_soon_as_it_is_complete() -> None:
    parser = SseParser()
    assert parser.feed(b"data: 1\n\ndata: 2\n") == [b"1"]
    assert parser.feed(b"\n") == [b"2"]


def test_an_endless_event_is_refused() -> None:
    parser = SseParser(max_event_bytes=100)
    with pytest.raises(ValueError, match="more than 100 bytes"):
        parser.feed(b"data: " + b"x" * 200)


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


def chunk(index: int, content: str, completion: int | None = None, finish: str = "null") -> bytes:
    usage = "" if completion is None else f',"usage":{{"prompt_tokens":9,"completion_tokens":{completion}}}'
    choice = f'{{"index":{index},"delta":{{"content":"{content}"}},"finish_reason":{finish}}}'
    return f'{{"choices":[{choice}]{usage}}}'.encode()


def test_a_chunk_is_not_a_token() -> None:
    meter = Meter()
    meter.read(chunk(0, "several", 3))
    meter.read(chunk(1, "x", 1))
    meter.read(chunk(0, "", 4, '"stop"'))
    assert (meter.produced, meter.input_tokens, meter.complete()) == (5, 9, False)
    meter.read(chunk(1, "", 1, '"stop"'))
    assert meter.complete()
    meter.read(b'{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":7,"prompt_tokens_details":null}}')
    assert meter.produced == 7


def test_of_several_prompts_the_input_is_known_from_a_total_only() -> None:
    meter = Meter(prompts=2)
    meter.read(chunk(0, "x", 1))
    meter.read(chunk(1, "y", 2))
    assert (meter.produced, meter.input_tokens) == (3, None)
    meter.read(b'{"choices":[],"usage":{"prompt_tokens":21,"completion_tokens":3}}')
    assert (meter.produced, meter.input_tokens) == (3, 21)


def test_usage_beside_several_choices_is_a_total() -> None:
    meter = Meter()
    choices = ",".join(f'{{"index":{i},"delta":{{"content":"several words"}},"finish_reason":"stop"}}' for i in (0, 1))
    meter.read(f'{{"choices":[{choices}],"usage":{{"prompt_tokens":9,"completion_tokens":14}}}}'.encode())
    assert (meter.produced, meter.input_tokens, meter.complete()) == (14, 9, True)


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (b"{", "bad_answer"),
        (b"[]", "bad_answer"),
        (b'{"error":{"message":"x","code":500}}', "error"),
        (b'{"error":{"message":"x","code":503}}', "overflow"),
        (b'{"error":"x"}', "error"),
        (b'{"object":"error","message":"x","code":503}', "overflow"),
    ],
)
def test_error_events(event: bytes, kind: str) -> None:
    with pytest.raises(UpstreamError) as caught:
        Meter().read(event)
    assert caught.value.kind == kind
