"""Input tokens, before an engine has counted them."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.openai.estimate import Estimator, raw_tokens


def test_the_estimate_learns_each_models_ratio() -> None:
    estimator = Estimator()
    body = {"messages": [{"role": "user", "content": "x" * 400}]}
    raw = raw_tokens(body)
    assert raw == 101 + 4
    for _ in range(60):
        estimator.observe("m", raw, 210)
    assert estimator.estimate("m", raw) == pytest.approx(210, rel=0.02)
    assert estimator.estimate("other", raw) == 105


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"prompt": [1, 2, 3]}, 3),
        ({"prompt": [[1, 2], [3]]}, 3),
        ({"prompt": ["abcd", "efgh"]}, 2),
        ({"prompt": "日本"}, 6 / 4),
        ({"messages": [{"content": [{"image_url": {"url": "data:image/png;base64," + "A" * 9999}}]}]}, 256 + 4),
        ({"tools": [[[{"a": [{"b": "abcd"}, [7]]}]]], "suffix": None}, 2),
        ({}, 0),
    ],
)
def test_what_is_counted(body: dict[str, Any], tokens: float) -> None:
    assert raw_tokens(body) == tokens
