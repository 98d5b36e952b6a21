"""What each endpoint makes of a client's body, and what its engines are sent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.openai.registry import ENDPOINTS

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
