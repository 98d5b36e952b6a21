"""What an answer consumed, and what of it a client gets to see."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UpstreamError
from gateway.openai.meter import Meter, to_json, visible


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


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
TRICKY = st.sampled_from(["usage", ',"usage":{}', '"usage":', "}", '\\"', ""])


@given(
    st.dictionaries(st.text(max_size=4) | TRICKY, JSON | TRICKY, max_size=3),
    st.sampled_from([None, {"prompt_tokens": 1, "details": {"x": {}}}, {}]),
    JSON | TRICKY,
    st.booleans(),
    st.booleans(),
)
def test_what_the_client_did_not_ask_for_is_taken_out_and_nothing_else(
    rest: dict[str, Any], usage: Any, content: Any, wants: bool, spaced: bool
) -> None:
    rest.pop("usage", None)
    choices = [{"delta": {"content": content, "usage": 1}}]
    chunk = {**rest, "choices": choices, "usage": usage}
    data = json.dumps(chunk, separators=None if spaced else (",", ":")).encode()
    shown = visible(json.loads(data), data, wants, False)
    assert shown is not None
    kept = {"usage": None} if wants and usage is None else {}
    assert json.loads(shown) == {**rest, "choices": choices, **kept}


def test_the_last_usage_is_shown_to_those_who_asked() -> None:
    data = b'{"choices":[],"usage":{"prompt_tokens":1}}'
    assert visible(json.loads(data), data, True, False) == data
    assert visible(json.loads(data), data, False, False) is None


def test_an_event_that_is_not_there_for_its_usage_is_shown_without_it() -> None:
    data = b'{"choices":[],"prompt_filter_results":[{"prompt_index":0}],"usage":null}'
    assert visible(json.loads(data), data, True, False) == data
    assert visible(json.loads(data), data, False, False) == data.replace(b',"usage":null', b"")


@pytest.mark.parametrize("form", [{}, {"indent": 1}])
def test_what_is_written_with_spaces_is_cut_and_not_written_anew(form: Any) -> None:
    chunk = {"x": 12345678901234567890123, "choices": [{"index": 0}], "usage": {"completion_tokens": 1}, "y": "\u00e9"}
    less = {name: value for name, value in chunk.items() if name != "usage"}
    data, kept = (json.dumps(each, **form).encode() for each in (chunk, less))
    assert visible(Meter().read(data), data, False, False) == kept


@pytest.mark.parametrize("data", [b'{"choices":[0],"a":"\\ud800"}', b'{"a":"\\ud800","choices":[0]}'])
@pytest.mark.parametrize("name", [b'"usage"', b'"us\\u0061ge"'])
def test_half_a_surrogate_pair_stays_as_it_was_escaped(data: bytes, name: bytes) -> None:
    """It has no bytes of its own: written anew as it is read, it would be no UTF-8."""
    event = b'{%b:{"x":",\\"usage\\":{}"} , %b' % (name, data[1:])
    assert visible(json.loads(event), event, False, False) == data.replace(b"{", b"{ ", 1)
    assert json.loads(to_json({"a": "\ud800"})) == {"a": "\ud800"}
