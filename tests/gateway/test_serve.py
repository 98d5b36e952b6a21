"""What a client gets when all is well."""

from __future__ import annotations

import json
from typing import Any

from .conftest import MakeHouse, chat
from .engine import Engine, Script, whole_answer


def events(text: str) -> list[Any]:
    lines = [block.removeprefix("data: ") for block in text.split("\n\n") if block]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


async def test_a_stream_arrives_without_the_usage_nobody_asked_for(make_house: MakeHouse) -> None:
    house = await make_house()
    async with house.post(chat(stream=True)) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        got = events(await response.text())
    assert got[-1] == "[DONE]"
    assert "".join(e["choices"][0]["delta"].get("content", "") for e in got[:-1]) == "xxx"
    assert not any("usage" in event for event in got[:-1])


async def test_a_whole_answer_equals_the_engines_own(make_house: MakeHouse) -> None:
    script = Script(text=[["Hel", "lo", " wörld"], ["a", "b", "\n\n"]])
    house = await make_house(Engine(text=script.text))
    body = chat(n=2, logprobs=True)
    async with house.post(body) as response:
        assert await response.json() == whole_answer("/v1/chat/completions", body, script)
    assert house.engine.seen[0]["stream"] is True
