"""Whatever an engine streams and wherever it is cut: counts and bytes are those of a slow and independent reading."""

from __future__ import annotations

import json
from itertools import accumulate, pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import EngineRefused, UpstreamError
from gateway.openai.stream import EventStream

from ..corpus.exchange import BY_HAND, RECORDED, Exchange
from .oracle import Json, data_of, expected
from .shapes import BUILDS, TEXT, TRAPS, WRITERS, chunks, compact, counts, framed, vllm

WANTS = [(False, False), (True, False), (True, True)]
CUTS = st.lists(st.integers(0), max_size=8)
EVERYWHERE = st.just([1])
STREAMS = [exchange for exchange in RECORDED + BY_HAND if exchange.streamed and exchange.status == 200]
SHORT = [exchange for exchange in STREAMS if len(exchange.answer) < 4500]


def kind_of(fault: UpstreamError | EngineRefused | None) -> str | None:
    return "refused" if isinstance(fault, EngineRefused) else fault and fault.kind


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    """Cut at these places, modulo the length."""
    places = sorted({cut % (len(stream) + 1) for cut in cuts} | {0, len(stream)})
    return [stream[a:b] for a, b in pairwise(places)]


def check(parts: list[bytes], wants: tuple[bool, bool], prompts: int = 1) -> EventStream:
    """After each part the client has what it is to have, and is charged for it. The reading at its end."""
    reading = EventStream(prompts, *wants)
    client = fed = b""
    for part in parts:
        fed += part
        client += reading.feed(part)
        right = expected(fed, prompts=prompts, wants_usage=wants[0], wants_continuous=wants[1])
        seen = data_of(client)
        assert client == b"" or client.endswith(b"\n\n"), "half an event was handed on"
        assert seen == right.shown
        meter = reading.meter
        assert (meter.produced, meter.input_tokens, meter.cached_tokens) == (
            right.produced,
            right.input_tokens,
            right.cached_tokens,
        )
        assert (reading.began, reading.ended) == (right.began, right.ended)
        assert kind_of(reading.fault) == right.fault
        assert meter.complete() == right.complete
        if right.fault or right.ended:
            break
    return reading


@given(st.data(), st.sampled_from([1, 1, 1, 2, 3]), st.sampled_from([1, 1, 1, 2]), st.sampled_from(WANTS), CUTS)
def test_streams_in_the_shapes_of_engines(
    data: st.DataObject, choices: int, prompts: int, wants: tuple[bool, bool], cuts: list[int]
) -> None:
    writer = data.draw(st.sampled_from(WRITERS))
    texts = [writer(chunk) for chunk in data.draw(chunks(choices))]
    stream = data.draw(framed([*texts, *data.draw(st.sampled_from([[], ["[DONE]"], ["[DONE]", "[DONE]"]]))]))
    reading = check(pieces(stream, cuts), wants, prompts)
    reading.close()  # every choice has ended
    *closing, done = data_of(reading.ending())
    right = expected(stream, prompts=prompts, wants_usage=wants[0], wants_continuous=wants[1])
    assert [json.loads(data) for data in closing] == ([right.closing] if right.closing else [])
    assert done == b"[DONE]"


LAST = b'{"id":"1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"completion_tokens":3}}'
CLOSING = b'data: {"id":"1","choices":[],"usage":{"completion_tokens":3}}\n\n'


@pytest.mark.parametrize("done", [b"", b"data: [DONE]\n\n"])
@pytest.mark.parametrize("wants", WANTS)
def test_usage_that_comes_beside_the_last_choice_alone_is_shown_once(wants: tuple[bool, bool], done: bytes) -> None:
    """To a client that asked for usage, as the last event, which is where such a client reads it."""
    engine = b"data: " + LAST + b"\n\n"
    for stream, closing in ((engine, CLOSING if wants == (True, False) else b""), (engine + CLOSING, b"")):
        reading = check([stream + done], wants)
        reading.close()
        assert reading.ending() == closing + b"data: [DONE]\n\n"


@pytest.mark.parametrize("depth", [500, 960, 1000, 3000])
def test_an_event_that_is_nested_deeply_is_handed_on_or_found_bad(depth: int) -> None:
    nested = b'{"choices":[{"index":0,"text":"x"}],"x":%b,"usage":{"x":1}}' % (b"[" * depth + b"]" * depth)
    reading = EventStream(1, False, False)
    seen = reading.feed(b"data: " + nested + b"\n\n")
    assert seen == b"" if reading.fault else seen == b"data: " + nested.replace(b',"usage":{"x":1}', b"") + b"\n\n"
    assert kind_of(reading.fault) in (None, "bad_answer")


@given(st.data(), st.sampled_from(BUILDS), st.sampled_from(WANTS), st.integers(0, 200))
def test_a_long_answer_of_one_choice(data: st.DataObject, build: Any, wants: tuple[bool, bool], cut: int) -> None:
    """What a fast way would be made for: the same event again and again, with another text and another count."""
    counted, texts = data.draw(st.booleans()), data.draw(st.lists(TEXT, min_size=3, max_size=20))
    steps = list(accumulate(data.draw(st.lists(st.integers(0, 12), min_size=len(texts), max_size=len(texts)))))
    said = zip(texts, steps, strict=True)
    made = [build(0, {"content": text}, None, None, counts(9, n) if counted else None) for text, n in said]
    stream = b"".join(b"data: " + compact(chunk).encode() + b"\n\n" for chunk in made)
    check(pieces(stream, list(range(0, len(stream), cut)) if cut else []), wants)


# -- odd events ------------------------------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.integers(-3, 40),
    st.sampled_from([0, -1, 10**14, 10**15, 2**53 + 1, 2**63, 2**64, 10**30, 1.5, 3.0, -0.0, 1e300, True, None, "7"]),
)
USAGE = st.one_of(
    st.sampled_from(
        [None, {}, [], 0, "", False, 5, "5", [1], True, {"usage": {"usage": 1}}, {"completion_tokens": {}}]
    ),
    st.builds(
        lambda prompt, made, details, more: {
            "prompt_tokens": prompt,
            "total_tokens": 1,
            "completion_tokens": made,
            "prompt_tokens_details": details,
            **more,
        },
        NUMBERS,
        NUMBERS,
        st.one_of(st.none(), st.just([]), st.just({}), NUMBERS.map(lambda n: {"cached_tokens": n, "usage": {"x": 1}})),
        st.dictionaries(st.sampled_from(["usage", "cost", "}", '"usage":']), st.integers() | st.just({"usage": 1})),
    ),
)
ODD: dict[str, st.SearchStrategy[Any]] = {
    "usage": USAGE,
    "error": st.sampled_from([None, False, "", 0, {}, "bad", {"code": 503}, {"code": "503"}, {"message": "x"}, [1]]),
    "object": st.sampled_from(["error", "chunk", None, 1]),
    "choices": st.sampled_from([None, [], {}, "", 7, "choices", [None], [1], [[]], {"index": 0}]),
    ',"usage":{}': st.just({"usage": {"completion_tokens": 3}}),
    "metrics": st.just({"usage": {"completion_tokens": 3}, "x": [{"usage": None}]}),
    "big": st.just(10**30),
    "half": st.just("\ud83d"),
}
ODD_CHOICE: dict[str, st.SearchStrategy[Any]] = {
    "index": st.sampled_from([None, 0, 1, 2, 7, "0", False]),
    "finish_reason": st.sampled_from([None, "", "stop", 0, False, {"usage": None}]),
    "delta": st.sampled_from(
        [None, {}, [], "text", {"role": "assistant"}, {"x": [0]}, {"content": 0}, {"content": "é"}]
    ),
    "text": st.sampled_from([None, "", "x", 5, '","finish_reason":null}]}', "\ud83d"]),
    "usage": USAGE,
    "logprobs": st.sampled_from([None, {"content": [{"token": ',"usage":{}}'}]}, {"tokens": ["\\"], "usage": 1}]),
}


@st.composite
def odd(draw: st.DrawFn, chunk: Json) -> Json:
    """A chunk with something changed: members in other places, other values, others beside them."""
    chunk = dict(chunk)
    for name in draw(st.lists(st.sampled_from(sorted(ODD)), max_size=2, unique=True)):
        chunk[name] = draw(ODD[name])
    if chunk["choices"] and isinstance(chunk["choices"], list) and isinstance(chunk["choices"][0], dict):
        changed = {
            name: draw(ODD_CHOICE[name]) for name in draw(st.lists(st.sampled_from(sorted(ODD_CHOICE)), max_size=2))
        }
        chunk["choices"] = [{**chunk["choices"][0], **changed}] + (
            [{"index": 9}] if draw(st.integers(0, 9)) == 9 else []
        )
    for name in draw(st.sampled_from([[], [], ["usage"], ["choices"], ["id"]])):
        chunk.pop(name, None)
    order = draw(st.sampled_from([list, lambda names: list(names)[::-1], sorted]))
    return {name: chunk[name] for name in order(chunk)}


def written(chunk: Json, writer: Any) -> str:
    """As JSON; what has no bytes of its own in UTF-8 (half a surrogate pair) escaped, as engines must."""
    text = str(writer(chunk))
    return text if text.encode("utf-8", "replace").decode() == text else json.dumps(chunk, separators=(",", ":"))


@given(st.data(), st.sampled_from([1, 2]), st.sampled_from(WANTS), CUTS)
def test_odd_events_among_others(data: st.DataObject, prompts: int, wants: tuple[bool, bool], cuts: list[int]) -> None:
    writer = data.draw(st.sampled_from(WRITERS))
    made = [data.draw(odd(chunk)) if data.draw(st.booleans()) else chunk for chunk in data.draw(chunks(2))]
    stream = data.draw(framed([written(chunk, writer) for chunk in made] + ["[DONE]"]))
    check(pieces(stream, cuts), wants, prompts)


@given(st.data(), st.sampled_from(WANTS))
@example(None, (False, False)).via("nothing odd")
def test_one_odd_event_in_a_long_answer(data: st.DataObject | None, wants: tuple[bool, bool]) -> None:
    """A way that has learned what events look like must see the one that looks a little different."""
    made = [vllm(0, {"content": text}, None, None, counts(9, n)) for n, text in enumerate([*TRAPS, *TRAPS], start=1)]
    if data is not None:
        at = data.draw(st.integers(0, len(made) - 2))
        made[at] = data.draw(odd(made[at]))
    stream = b"".join(b"data: " + written(chunk, compact).encode() + b"\n\n" for chunk in made)
    check([stream[: len(stream) // 3], stream[len(stream) // 3 :]], wants)
    check([part + b"\n\n" for part in stream.split(b"\n\n") if part], wants)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "5", '{"choices":', '{"a":1}}', "[DONE", '"[DONE]"', "[DONE] "]
)
def test_what_is_no_event_ends_the_answer_after_all_that_came_before(text: str) -> None:
    good = compact(vllm(0, {"content": "x"}, None, None, None))
    stream = f"data: {good}\n\ndata: {text}\n\ndata: {good}\n\n".encode()
    for cut in range(len(stream)):
        reading = check([stream[:cut], stream[cut:]], (False, False))
        assert reading.fault is not None
        assert kind_of(reading.fault) == "bad_answer"


@pytest.mark.parametrize("choice", [{"delta": {}}, {"delta": []}, {"delta": None}, {}, {"delta": {"role": "x"}}])
def test_a_text_beside_a_choice_that_says_nothing_is_not_its_text(choice: Json) -> None:
    made = [{"choices": [{"index": 0, **choice, "finish_reason": None}], "text": text} for text in "~xyz"]
    check([b"data: " + compact(chunk).encode() + b"\n\n" for chunk in made], (False, False))


def test_a_stream_that_breaks_off_is_no_answer() -> None:
    reading = check([b"data: " + compact(vllm(0, {"content": "x"}, None, None, None)).encode() + b"\n\n"], (True, True))
    with pytest.raises(UpstreamError, match="broke off"):
        reading.close()


# -- recorded --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wants", WANTS)
@pytest.mark.parametrize("exchange", STREAMS, ids=str)
def test_recorded_streams_as_they_came_and_in_odd_pieces(exchange: Exchange, wants: tuple[bool, bool]) -> None:
    prompts = exchange.prompts
    for parts in (exchange.pieces, pieces(exchange.answer, list(range(0, len(exchange.answer), 997)))):
        reading = check(parts, wants, prompts)
        assert reading.ended or reading.fault


@pytest.mark.parametrize("exchange", SHORT, ids=str)
def test_recorded_streams_cut_at_every_byte(exchange: Exchange) -> None:
    wants, prompts, stream = (False, False), exchange.prompts, exchange.answer
    whole = EventStream(prompts, *wants)
    client = whole.feed(stream)
    for cut in range(len(stream)):
        reading = EventStream(prompts, *wants)
        first = reading.feed(stream[:cut])
        assert first + (b"" if reading.ended or reading.fault else reading.feed(stream[cut:])) == client, cut
        assert reading.meter.produced == whole.meter.produced
    check([stream[n : n + 1] for n in range(len(stream))] if len(stream) < 2500 else [stream], wants, prompts)
