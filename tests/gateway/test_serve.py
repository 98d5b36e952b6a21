"""What a client gets when all is well."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import House, MakeHouse, chat, tenant
from .engine import Engine, Script, stream_chunks, whole_answer

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def events(text: str) -> list[Any]:
    lines = [block.removeprefix("data: ") for block in text.split("\n\n") if block]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


async def stream(house: House, body: dict[str, Any], **more: Any) -> list[Any]:
    async with house.post({**body, "stream": True}, **more) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        return events(await response.text())


@pytest.mark.parametrize("cut", [None, 1, 7])
@pytest.mark.parametrize("options", [None, {"include_usage": True}, {"include_usage": False}])
async def test_a_stream_is_what_the_engine_would_have_sent(
    make_house: MakeHouse, cut: int | None, options: dict[str, bool] | None
) -> None:
    house = await make_house(Engine(cut=cut))
    body = chat(stream_options=options) if options is not None else chat()
    got = await stream(house, body)
    expected = stream_chunks(CHAT, body, Script())
    assert got == [*expected, "[DONE]"]


async def test_continuous_usage_reaches_a_client_that_asked_for_it(make_house: MakeHouse) -> None:
    house = await make_house()
    body = chat(stream_options={"include_usage": True, "continuous_usage_stats": True})
    assert await stream(house, body) == [*stream_chunks(CHAT, body, Script()), "[DONE]"]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("more", [{}, {"n": 2}, {"logprobs": True}, {"n": 2, "logprobs": True}])
async def test_a_whole_answer_equals_the_engines_own(make_house: MakeHouse, path: str, more: dict[str, Any]) -> None:
    text = [["Hel", "lo", " wörld\n\n"], ["a", "\u2028", "é"]][: more.get("n", 1)]
    script = Script(text=text, cached_tokens=3, finish="length")
    house = await make_house(Engine(text=text, cached_tokens=3, finish="length"))
    body = {**chat(prompt="hello"), **more}
    async with house.post(body, path=path) as response:
        assert response.status == 200
        assert await response.json() == whole_answer(path, body, script)
    assert house.engine.seen == [body], "what asks for no stream goes to the engine as it came"


async def test_unknown_fields_pass_through_and_metering_is_added(make_house: MakeHouse) -> None:
    house = await make_house()
    extra = {"top_k": 5, "guided_json": {"type": "object"}, "stream_options": {"chunk_size": 3}}
    await stream(house, chat(**extra))
    seen = house.engine.seen[0]
    assert {"top_k": 5, "guided_json": {"type": "object"}}.items() <= seen.items()
    assert seen["stream_options"] == {"chunk_size": 3, "include_usage": True, "continuous_usage_stats": True}


async def test_an_engine_that_does_not_know_continuous_usage_is_asked_once(make_house: MakeHouse) -> None:
    house = await make_house(Engine(tokens_per_chunk=2))
    house.engine.knows_continuous_usage = False
    for _ in range(2):
        assert len(await stream(house, chat())) == 5
    asked = [body["stream_options"].get("continuous_usage_stats") for body in house.engine.seen]
    assert asked == [True, None, None]
    assert house.counter("a") == 2 * (7 + 2 * 6), "the final usage must set right what chunks undercount"


@pytest.mark.parametrize("streamed", [True, False])
async def test_tokens_are_charged_exactly_once(make_house: MakeHouse, streamed: bool) -> None:
    engine = Engine(prompt_tokens=50, cached_tokens=20, tokens_per_chunk=3)
    house = await make_house(engine, pool={"cost": "weighted:input=1,output=2,cached_input=0.5"})
    for n in (1, 2):
        before = house.counter("a")
        async with house.post(chat(stream=streamed, n=n, max_tokens=4)) as response:
            assert response.status == 200
            await response.read()
        assert house.counter("a") - before == 30 + 10 + 2 * 12 * n


async def test_without_any_usage_chunks_with_content_are_counted(make_house: MakeHouse) -> None:
    house = await make_house(Engine(usage=False))
    await stream(house, chat(max_tokens=4))
    estimate = 3 + 4  # "user" and "hello" are 9 bytes, and there is one message
    assert house.counter("a") == estimate + 2 * 4


async def test_headers(make_house: MakeHouse) -> None:
    house = await make_house()
    for sent, kept in (("abc-1", True), ("a b", False), ("x" * 200, False)):
        async with house.post(chat(), headers={"x-request-id": sent}) as response:
            assert (response.headers["x-request-id"] == sent) is kept
            assert int(response.headers["x-fairgate-queue-ms"]) >= 0
    async with house.post(chat(), headers={"x-request-id": "abc-1"}):
        pass
    ids = [headers["x-request-id"] for headers in house.engine.headers]
    assert ids[0].startswith("abc-1-")
    assert len(set(ids)) == 4, "engines need an id of its own for each request, whatever clients send"
    assert "authorization" not in house.engine.headers[0], "a client's key went to an engine"


async def test_models_of_a_tenant(make_house: MakeHouse) -> None:
    house = await make_house(
        pool={"models": ["m", "n"], "adapters": ["lora"]}, tenants=[tenant("a", models=["n", "lora"]), tenant("b")]
    )
    for key, models in (("key-a", ["n", "lora"]), ("key-b", ["m", "n", "lora"])):
        async with house.session.get(house.url + "/v1/models", headers={"x-api-key": key}) as response:
            assert [model["id"] for model in (await response.json())["data"]] == models
    async with house.session.get(house.url + "/v1/models") as response:
        assert response.status == 401


async def test_what_a_client_writes_does_not_teach_the_gateway_what_an_engine_knows(make_house: MakeHouse) -> None:
    """An engine's refusal repeats the client's words; were they believed, one tenant could spoil metering for all."""
    house = await make_house()
    said = "temperature: Input should be a valid number, input: 'continuous_usage_stats'"
    no = Script(status=400, body={"error": {"message": said, "type": "BadRequestError", "code": 400}})
    house.engine.scripts.extend([no, no])
    async with house.post(chat(stream=True, temperature="continuous_usage_stats")) as response:
        assert (response.status, await response.json()) == (400, no.body)
    await stream(house, chat(), key="key-b")
    asked = [body["stream_options"].get("continuous_usage_stats") for body in house.engine.seen]
    assert asked == [True, None, True]
    assert house.counter("a") == 0
