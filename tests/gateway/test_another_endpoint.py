"""Another endpoint fits into the hot path: here one like embeddings, without events and without output tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from gateway.errors import UpstreamError
from gateway.openai.body import encode, model_of, parse
from gateway.openai.endpoint import Ask
from gateway.openai.estimate import weigh
from gateway.openai.meter import Meter
from gateway.ports import Answer

from .conftest import MakeHouse
from .engine import Engine, Script, whole_answer

PATH = "/v1/embeddings"


class Whole:
    """An answer that comes as one body, with its usage in it."""

    def __init__(self, answer: Answer) -> None:
        self.meter = Meter()
        self._answer = answer
        self._body = b""

    async def read(self) -> bytes | None:
        if self._body:
            return None
        while part := await self._answer.read():
            self._body += part
        try:
            self.meter.input_tokens = json.loads(self._body)["usage"]["prompt_tokens"]
        except (ValueError, KeyError):
            raise UpstreamError("bad_answer", "the engine sent something else than embeddings") from None
        return b""

    def ending(self) -> bytes:
        return self._body


class Embeddings:
    path = PATH

    def read(self, raw: bytes) -> Ask:
        body = parse(raw)
        return Ask(self, model_of(body), body, False, max_tokens=0, choices=1, raw_tokens=weigh(body.get("input")))

    def upstream_body(self, ask: Ask, usage_options: Mapping[str, bool]) -> bytes:
        return encode(ask.body)

    def metered(self, ask: Ask, answer: Answer) -> Whole:
        return Whole(answer)

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
