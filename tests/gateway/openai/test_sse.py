"""Bytes in, events out: wherever a stream is cut, the same events come out."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.openai.sse import SseParser, events_of, frame

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
    got = [data for piece in pieces(written(events, end, noise), cuts) for data in events_of(parser.whole(piece))]
    assert got == [b"\n".join(lines) for lines in events]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_cut_at_every_single_byte(end: bytes) -> None:
    stream = written([[b"a"], [b"b", b""], ["é".encode()], [b"[DONE]"]], end, True)
    for cut in range(len(stream) + 1):
        parser = SseParser()
        got = events_of(parser.whole(stream[:cut])) + events_of(parser.whole(stream[cut:]))
        assert got == [b"a", b"b\n", "é".encode(), b"[DONE]"], cut


@given(st.lists(DATA.filter(lambda data: b"\r" not in data), min_size=1, max_size=3))
def test_a_framed_event_reads_back(lines: list[bytes]) -> None:
    assert events_of(SseParser().whole(frame(b"\n".join(lines)))) == [b"\n".join(lines)]


def test_an_event_is_handed_out_as_soon_as_it_is_complete() -> None:
    parser = SseParser()
    assert events_of(parser.whole(b"data: 1\n\ndata: 2\n")) == [b"1"]
    assert events_of(parser.whole(b"\n")) == [b"2"]


def test_an_endless_event_is_refused() -> None:
    parser = SseParser(max_event_bytes=100)
    with pytest.raises(ValueError, match="more than 100 bytes"):
        parser.whole(b"data: " + b"x" * 200)
