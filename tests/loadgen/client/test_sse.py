"""The event parser: wherever the transport cuts, the same events come out."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.client.sse import SseParser, TooLarge

LINES = st.lists(
    st.binary(max_size=20).map(lambda b: b.replace(b"\n", b"").replace(b"\r", b"")), min_size=1, max_size=3
)


@given(st.lists(LINES, max_size=6), st.sampled_from([b"\n", b"\r\n"]), st.data())
def test_cuts_change_nothing(events: list[list[bytes]], newline: bytes, data: st.DataObject) -> None:
    stream = b": comment" + newline + newline
    for lines in events:
        stream += b"".join(b"data: " + line + newline for line in lines) + b"id: 7" + newline + newline
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=8)) | {0, len(stream)})
    parser = SseParser()
    seen = [payload for a, b in pairwise(cuts) for payload in parser.feed(stream[a:b])]
    assert seen == [b"\n".join(lines) for lines in events]


def test_an_open_event_is_not_delivered_and_space_is_optional() -> None:
    parser = SseParser()
    assert list(parser.feed(b"data:a\n\ndata: b\n")) == [b"a"]
    assert list(parser.feed(b"\n")) == [b"b"]


@pytest.mark.parametrize("flood", [b"data: " + b"x" * 200, b"data: x\n" * 200])
def test_an_event_without_end_is_refused(flood: bytes) -> None:
    with pytest.raises(TooLarge, match="more than 100 bytes"):
        list(SseParser(limit=100).feed(flood))
