"""What each endpoint makes of a client's body, and what its engines are sent."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Invalid
from gateway.openai.registry import ENDPOINTS

from . import oracle

CHAT, COMPLETIONS = ENDPOINTS["/v1/chat/completions"], ENDPOINTS["/v1/completions"]


def raw(**body: Any) -> bytes:
    return json.dumps({"model": "m", **body}).encode()


def test_every_endpoint_stands_under_its_path() -> None:
    assert all(endpoint.path == path for path, endpoint in ENDPOINTS.items())


@pytest.mark.parametrize(
    ("path", "body", "most"),
    [
        ("/v1/chat/completions", {}, 500),
        ("/v1/chat/completions", {"n": 3}, 1500),
        ("/v1/chat/completions", {"n": 2, "max_tokens": 7}, 14),
        ("/v1/chat/completions", {"max_tokens": 7, "max_completion_tokens": 5}, 5),
        ("/v1/completions", {"prompt": "x"}, 16),
        ("/v1/completions", {"prompt": "x", "max_tokens": 9, "max_completion_tokens": 1}, 9),
        ("/v1/completions", {"prompt": "x", "max_completion_tokens": 1}, 16),
        ("/v1/completions", {"prompt": ["x", "y"], "n": 2, "max_tokens": 10}, 40),
        ("/v1/completions", {"prompt": [[1, 2], [3]]}, 32),
        ("/v1/completions", {"prompt": [1, 2, 3]}, 16),
    ],
)
def test_the_most_output_of_a_request(path: str, body: dict[str, Any], most: int) -> None:
    assert ENDPOINTS[path].read(raw(**body)).most_output(500) == most


OPTIONS = {"include_usage": True, "continuous_usage_stats": True}


@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS])
def test_what_asks_for_no_stream_goes_to_the_engine_byte_for_byte(endpoint: Any) -> None:
    body = b' {"model":"m" , "prompt":"\\ud83d", "max_tokens":1e0}\r\n'.replace(b"1e0", b"1")
    assert endpoint.upstream_body(endpoint.read(body), OPTIONS) is body


@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("end", [b"", b" ", b"\n\t\r\n"])
def test_of_a_stream_an_engine_reports_what_metering_needs_and_else_gets_what_was_sent(
    endpoint: Any, end: bytes
) -> None:
    body = b'{"model":"m",  "x":"}","stream":true }'
    sent = endpoint.upstream_body(endpoint.read(body + end), OPTIONS)
    assert sent.startswith(body[:-1])
    assert json.loads(sent) == {**json.loads(body), "stream_options": OPTIONS}


@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS])
def test_options_of_the_client_are_kept_and_those_of_metering_added(endpoint: Any) -> None:
    options = {"include_usage": False, "chunk_size": 3, "continuous_usage_stats": True}
    ask = endpoint.read(raw(top_k=5, stream=True, stream_options=options))
    sent = json.loads(endpoint.upstream_body(ask, {"include_usage": True}))
    assert sent == {
        "model": "m",
        "top_k": 5,
        "stream": True,
        "stream_options": {"include_usage": True, "chunk_size": 3},
    }
    assert (ask.wants_usage, ask.wants_continuous) == (False, True)


@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("continuous", [True, False])
def test_an_engine_is_not_asked_for_continuous_usage_that_it_does_not_know(endpoint: Any, continuous: bool) -> None:
    """Nor for none of it: it refuses a body that has the name in it. Else a client that asks for it would be refused by
    such an engine each time but the first."""
    options = {"include_usage": True, "continuous_usage_stats": continuous}
    ask = endpoint.read(raw(stream=True, stream_options=options))
    sent = json.loads(endpoint.upstream_body(ask, {"include_usage": True}))
    assert sent["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("options", [None, {}])
def test_empty_options_are_filled(endpoint: Any, options: Any) -> None:
    ask = endpoint.read(raw(stream=True, stream_options=options))
    assert json.loads(endpoint.upstream_body(ask, OPTIONS))["stream_options"] == OPTIONS


@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS])
def test_a_body_that_asks_for_the_same_needs_no_change(endpoint: Any) -> None:
    body = raw(stream=True, stream_options=OPTIONS)
    assert endpoint.upstream_body(endpoint.read(body), OPTIONS) is body


NO_N = st.characters(exclude_categories=["Cs"], exclude_characters="n")  # it is a field that the gateway reads
TEXT = st.text(NO_N, max_size=4) | st.sampled_from(
    ["stream_options", "\\", '"', '\\"', '\\\\"', '","stream_options":{}', "{", "]", "\ud83d"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECT = st.dictionaries(TEXT, JSON, max_size=3)
FORMS: list[dict[str, Any]] = [{}, {"separators": (",", ":")}, {"indent": 1}, {"ensure_ascii": False}]
ESCAPED = "stream\\u005foptions"


@given(OBJECT, OBJECT, OBJECT, st.sampled_from(FORMS), st.booleans())
def test_around_its_options_a_body_stays_as_it_came(
    before: dict[str, Any], options: dict[str, Any], after: dict[str, Any], form: dict[str, Any], escaped: bool
) -> None:
    body = {**before, "model": "m", "stream": True, "stream_options": options, **after}
    body["stream_options"] = options
    text = json.dumps(body, **form)
    if escaped:
        text = text.replace("stream_options", ESCAPED)
    try:
        data = text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which has no bytes of its own
        data = json.dumps(body).encode()
    sent = CHAT.upstream_body(CHAT.read(data), {"include_usage": True})
    others = {name: value for name, value in options.items() if name != "continuous_usage_stats"}
    assert json.loads(sent) == {**body, "stream_options": {**others, "include_usage": True}}
    pairs = zip(oracle.members(data.decode()), oracle.members(sent.decode()), strict=True)
    for (name, a, b), (_, c, d) in pairs:
        assert name == "stream_options" or data.decode()[a:b] == sent.decode()[c:d]


def test_numbers_that_a_parser_would_round_are_kept() -> None:
    options = b'{"include_usage": false, "x": 1.10, "y": 12345678901234567890123}'
    body = b'{"model":"m","seed":12345678901234567890123,"stream_options" : %b , "t":1e-2,"stream":true}'
    asked = b'{"x": 1.10,"y": 12345678901234567890123,"include_usage":true,"continuous_usage_stats":true}'
    assert CHAT.upstream_body(CHAT.read(body % options), OPTIONS) == body % asked


def test_of_options_that_come_twice_the_last_count() -> None:
    body = b'{"model":"m","stream":true,"stream_options":{"a":1},"stream_options":null,"x":2}'
    sent = CHAT.upstream_body(CHAT.read(body), {"include_usage": True})
    assert sent == body.replace(b"null", b'{"include_usage":true}')


@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("depth", [10, 500, 1000])
@pytest.mark.parametrize("member", ["messages", "prompt", "tools", "metadata", "stream_options"])
def test_what_can_be_read_is_weighed_and_sent_however_deep_it_is_nested(endpoint: Any, depth: int, member: str) -> None:
    nested = b"[" * depth + b"]" * depth
    options = b'{"x":%b}' % nested if member == "stream_options" else b"{}"
    more = b"" if member == "stream_options" else b',"%b":%b' % (member.encode(), nested)
    body = b'{"model":"m","stream":true,"stream_options":%b%b}'
    sent = endpoint.upstream_body(endpoint.read(body % (options, more)), {"include_usage": True})
    asked = (options[:-1] + b',"include_usage":true}').replace(b"{,", b"{")
    assert sent == body % (asked, more)


@pytest.mark.parametrize("member", ["model", "n", "stream", "stream_options", "max_tokens"])
def test_what_is_nested_where_it_does_not_belong_is_refused_by_its_name(member: str) -> None:
    nested = b"[" * 1000 + b"]" * 1000
    with pytest.raises(Invalid, match=f"'{member}' is a list") as caught:
        CHAT.read(b'{"model":"m","%b":%b}' % (member.encode(), nested))
    assert caught.value.param == member
