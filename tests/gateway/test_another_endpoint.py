"""Another endpoint fits into the hot path: here one like embeddings, without events and without output tokens."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from gateway.openai.body import model_of, parse
from gateway.openai.endpoint import Ask
from gateway.openai.estimate import weigh
from gateway.openai.whole import WholeAnswer

from .conftest import MakeHouse
from .engine import Engine, Script, whole_answer

PATH = "/v1/embeddings"


class Embeddings:
    path = PATH

    def read(self, raw: bytes) -> Ask:
        body = parse(raw)
        return Ask(self, model_of(body), raw, False, max_tokens=0, choices=1, raw_tokens=weigh(body.get("input")))

    def upstream_body(self, ask: Ask, usage_options: Mapping[str, bool]) -> bytes:
        return ask.body

    def reading(self, ask: Ask) -> WholeAnswer:
        return WholeAnswer()

    def error_event(self, error: bytes) -> bytes:
        raise AssertionError("it has no events")


@pytest.fixture(autouse=True)
def _served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.app.ENDPOINTS", {PATH: Embeddings()})


async def test_its_input_is_charged_and_its_answer_handed_on(make_house: MakeHouse) -> None:
    house = await make_house(Engine(prompt_tokens=9), pool={"predict": "max_tokens"})
    body = {"model": "m", "input": ["hello there", [1, 2, 3]]}
    async with house.post(body, path=PATH) as response:
        assert response.status == 200
        assert await response.json() == whole_answer(PATH, body, Script(prompt_tokens=9))
    assert house.engine.seen == [body]
    assert house.counter("a") == 9


async def test_another_worker_serves_what_one_failed(make_house: MakeHouse) -> None:
    house = await make_house(Engine(), Engine())
    house.engines[0].scripts.extend([Script(status=503), Script(die_before=0)])
    for _ in range(2):
        async with house.post({"model": "m", "input": "x"}, path=PATH) as response:
            assert response.status == 200
    assert house.counter("a") == 2 * 7


async def test_no_other_path_is_served(make_house: MakeHouse) -> None:
    house = await make_house()
    async with house.post({}, path="/v1/chat/completions") as response:
        assert response.status == 404
