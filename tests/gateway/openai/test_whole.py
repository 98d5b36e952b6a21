"""An answer in one piece: what is charged for it, and that it reaches the client as it came."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.errors import UpstreamError
from gateway.openai.whole import WholeAnswer

SAID = "x" * 400


def reading(**answer: Any) -> WholeAnswer:
    data = json.dumps(answer).encode()
    reading = WholeAnswer()
    assert reading.feed(data[:7]) + reading.feed(data[7:]) == b""
    reading.close()
    assert reading.ended
    assert reading.ending() == data
    return reading


@pytest.mark.parametrize(
    ("usage", "produced", "input_tokens"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 100}, 100, 7),
        ({"prompt_tokens": 7.0, "completion_tokens": 90.0}, 90, 7),
        ({"prompt_tokens": 7, "completion_tokens": 0}, 0, 7),
        ({"prompt_tokens": 7}, 100, 7),
        ({"completion_tokens": -1}, 100, None),
        ({"completion_tokens": 1.5}, 100, None),
        ({"completion_tokens": "9"}, 100, None),
        ({"completion_tokens": 1e300}, 100, None),
        ({}, 100, None),
        (None, 100, None),
        ([], 100, None),
    ],
    ids=str,
)
def test_what_an_engine_does_not_count_is_weighed(usage: Any, produced: int, input_tokens: int | None) -> None:
    meter = reading(choices=[{"text": SAID}], usage=usage).meter
    assert (meter.produced, meter.input_tokens) == (produced, input_tokens)


@pytest.mark.parametrize("answer", [{}, {"choices": None}, {"choices": []}, {"data": [{"embedding": [0.5]}]}])
def test_an_answer_that_says_nothing_costs_no_output(answer: dict[str, Any]) -> None:
    assert reading(**answer, usage={"prompt_tokens": 3}).meter.produced == 0


@pytest.mark.parametrize("choices", [5, "choices", {"index": 0}, [None], [[]], True])
def test_choices_that_are_none_make_no_answer(choices: Any) -> None:
    with pytest.raises(UpstreamError) as caught:
        reading(choices=choices)
    assert caught.value.kind == "bad_answer"
