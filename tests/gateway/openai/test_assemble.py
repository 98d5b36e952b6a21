"""A streamed answer put together again."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from gateway.openai.assemble import Assembler


@given(st.lists(st.text(max_size=3), min_size=1, max_size=5), st.lists(st.integers(0, 2), max_size=12))
def test_assembly_does_not_depend_on_how_choices_interleave(parts: list[str], turns: list[int]) -> None:
    queues = {index: list(parts) for index in range(3)}
    whole = Assembler()
    order = [*turns, *(index for index in range(3) for _ in parts)]
    for index in order:
        if queues[index]:
            delta = {"role": "assistant", "content": queues[index].pop(0), "new_field": [index]}
            finish = None if queues[index] else "stop"
            whole.add({"object": "chat.completion.chunk", "choices": [
                {"index": index, "delta": delta, "finish_reason": finish}]})  # fmt: skip
    answer = json.loads(whole.ending())
    assert answer["object"] == "chat.completion"
    for index, choice in enumerate(answer["choices"]):
        assert choice["index"] == index
        assert choice["finish_reason"] == "stop"
        message = {"role": "assistant", "content": "".join(parts), "new_field": [index] * len(parts)}
        assert choice["message"] == message
