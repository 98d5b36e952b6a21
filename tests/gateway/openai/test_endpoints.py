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


@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS])
def test_an_engine_streams_and_reports_what_metering_needs(endpoint: Any) -> None:
    options = {"include_usage": False, "chunk_size": 3, "continuous_usage_stats": True}
    ask = endpoint.read(raw(top_k=5, stream_options=options))
    sent = json.loads(endpoint.upstream_body(ask, {"include_usage": True}))
    assert sent == {
        "model": "m",
        "top_k": 5,
        "stream": True,
        "stream_options": {"include_usage": True, "chunk_size": 3},
    }
    assert ask.body["stream_options"] == options, "what the client asked for was lost"
    assert not ask.stream
