"""However a network cuts bytes into pieces, the same requests come out; and whatever bytes come, nothing breaks."""

from __future__ import annotations

import asyncio
import itertools
import re

from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ApiError
from gateway.http.reader import RequestReader

from .conftest import MakeEdge, chunked, request, statuses
from .test_ambiguous import CASES, HARMLESS

Seen = list[tuple[object, ...]]
MOST_HEAD = 4096


def read(pieces: list[bytes]) -> Seen:
    """What comes out: requests, and the status of the error that ended it. Whether one is under way."""
    reader, seen = RequestReader(MOST_HEAD, 100_000), Seen()
    try:
        for piece in pieces:
            rest = piece
            while rest:
                rest = reader.feed(rest)
                if (head := reader.head) is not None and reader.done:
                    seen.append((head.method, head.path, head.key, head.length, reader.keep, reader.body()))
                    reader.begin()
    except ApiError as error:
        return [*seen, (error.status,)]
    return [*seen, (reader.started,)]


BODIES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"\r\n\r\n", b"0\r\n\r\n", b"\r\n0\r\n\r\n", request(b"inner"), b"\r\n\r\n" * 9, b"x" * 3000]),
)
TRAILERS = st.sampled_from([b"", b"x: y\r\n", b"x-api-key: other\r\nY:\r\n"])
PLAIN = st.builds(request, BODIES)
CHUNKED = st.builds(lambda parts, trailer: chunked(*filter(None, parts), trailer=trailer), st.lists(BODIES), TRAILERS)
OTHER = st.sampled_from([b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", *CASES.values(), *HARMLESS.values()])
REQUESTS = st.lists(st.one_of(PLAIN, CHUNKED, OTHER), min_size=1, max_size=4).map(b"".join)


def cut(raw: bytes, places: list[int]) -> list[bytes]:
    at = [0, *sorted({place % (len(raw) + 1) for place in places}), len(raw)]
    return [raw[start:end] for start, end in itertools.pairwise(at)]


@given(REQUESTS, st.lists(st.integers(0, 1 << 20), max_size=12))
def test_cut_anywhere(raw: bytes, places: list[int]) -> None:
    assert read(cut(raw, places)) == read([raw])


@given(REQUESTS)
def test_cut_everywhere(raw: bytes) -> None:
    assert read([raw[at : at + 1] for at in range(len(raw))]) == read([raw])


@given(st.lists(st.one_of(PLAIN, CHUNKED), min_size=1, max_size=5))
def test_as_many_come_out_as_went_in(requests: list[bytes]) -> None:
    """Whatever stands in a body, a request among it too, is the body."""
    *seen, last = read([b"".join(requests)])
    assert last == (False,)
    assert seen == [read([raw])[0] for raw in requests]


def test_an_edge_cut_at_every_byte_answers_the_same() -> None:
    """The oracle of the above stands on nothing of the reader: bodies are cut out by their lengths."""
    bodies = [b"1", b"\r\n\r\n", b"", request(b"inner")]
    raw = b"".join(request(body) for body in bodies)
    for place in range(len(raw)):
        assert [seen[-1] for seen in read(cut(raw, [place]))[:-1]] == bodies


async def test_pipelined_over_a_socket_and_cut_at_every_byte(make_edge: MakeEdge) -> None:
    edge = await make_edge()
    raw = request(b"1") + chunked(b"2", b"3", trailer=b"x: y\r\n") + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    wire = await edge.connect()
    for place in range(len(raw) + 1):
        wire.send(raw[:place])
        await asyncio.sleep(0)
        wire.send(raw[place:])
        assert [(await wire.answer())[::2] for _ in range(3)] == [(200, b"1"), (200, b"23"), (200, b'{"status":"ok"}')]
    await wire.close()


SEEDS = [*CASES.values(), *HARMLESS.values(), request(b"{}"), chunked(b"{}", b"[]")]
STRANGE = st.sampled_from(
    [b"\r", b"\n", b"\r\n", b"\x00", b" ", b"\t", b":", b",", b"\xff", b"0", b"\r\n\r\n", b"9" * 30]
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    raw = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(raw)))
        cut_out = draw(st.integers(0, 3))
        raw = raw[:at] + draw(st.one_of(STRANGE, st.binary(max_size=3))) + raw[at + cut_out :]
    return raw


@given(st.lists(mutated(), min_size=20, max_size=20))
def test_no_bytes_break_the_reader(raws: list[bytes]) -> None:
    for raw in raws:
        for seen in read([raw]):
            assert len(seen) != 1 or seen[0] in (True, False, 400, 413, 431)


async def test_no_bytes_break_the_edge(make_edge: MakeEdge) -> None:
    """Never a status of ours for their nonsense, never silence: each is answered, or closed on after its end. That
    nothing was logged is checked by the fixture."""
    edge = await make_edge(head_s=5)
    raws: list[bytes] = []

    @given(st.lists(mutated(), min_size=10, max_size=10))
    def collect(some: list[bytes]) -> None:
        raws.extend(some)

    collect()
    for start in range(0, len(raws), 50):
        for found, raw in await asyncio.gather(*map(edge.ask, raws[start : start + 50])):
            assert all(status < 500 for status in found), raw
            assert statuses(raw) == found
            assert not re.search(rb"Traceback|internal_error", raw)
