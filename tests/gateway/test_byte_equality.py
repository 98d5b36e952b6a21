"""A client gets what the engine wrote, byte for byte: recorded answers through a real gateway."""

from __future__ import annotations

import json
import re

import pytest

from .conftest import House, MakeHouse
from .corpus.exchange import BY_HAND, RECORDED, Exchange
from .corpus.replay import Replay, less_options
from .openai.oracle import Expected, data_of, expected

ALL = RECORDED + BY_HAND
GROUPS = {
    name: {each.variant: each for each in ALL if each.name == name} for name in dict.fromkeys(e.name for e in ALL)
}
ANSWERED = {
    name: group for name, group in GROUPS.items() if "whole" in group and "stream" in group and group["stream"].streamed
}
REFUSED = [each for each in ALL if each.status in (400, 404, 422)]
STREAMED = [name for name, group in ANSWERED.items() if group["whole"].status == 200]
REFUSED_IN_STREAM = [name for name, group in ANSWERED.items() if group["whole"].status == 400]
LATE = re.compile(rb',"system_fingerprint":"[^"]*"|,"usage":null')
"""vLLM writes it beside the last choice, or beside the last usage where it was asked for that. SGLang writes
`"usage":null` where it was asked for nothing."""
BY_CHANCE = re.compile(rb'(?<="created":)\d+|(?<="chatcmpl-tool-)[0-9a-f]+')


@pytest.fixture
def make_house(make_local_house: MakeHouse) -> MakeHouse:
    """Bytes do not depend on where the queue is."""
    return make_local_house


async def house_of(make_house: MakeHouse, *exchanges: Exchange, cut: int | None = None) -> tuple[House, Replay]:
    engine = Replay(exchanges, cut)
    house = await make_house(engine, pool={"models": ["smollm2", "no-such-model"]}, worker={"kv_tokens": 100_000})
    return house, engine


async def sent(house: House, exchange: Exchange) -> tuple[int, str, bytes]:
    async with house.post(exchange.request, path=exchange.path) as response:
        return response.status, response.headers["Content-Type"], await response.read()


def with_usage(group: dict[str, Exchange]) -> Exchange:
    """What a gateway reads, whatever the client asked for: the recording that says most."""
    return group.get("continuous") or group["usage"]


def shown(group: dict[str, Exchange], wants_usage: bool, wants_continuous: bool) -> Expected:
    source = with_usage(group)
    return expected(source.answer, prompts=source.prompts, wants_usage=wants_usage, wants_continuous=wants_continuous)


def framed(events: list[bytes]) -> bytes:
    return b"".join(b"data: " + data + b"\n\n" for data in events)


def turns(stream: bytes) -> list[bytes]:
    """The events of a stream less what differs between two answers to the same request: ids and times by chance, the
    order in which choices take turns, and the place of the fingerprint."""
    events = data_of(BY_CHANCE.sub(b"0", LATE.sub(b"", stream)))
    return sorted(events, key=lambda data: _index(data))


def _index(data: bytes) -> int:
    choices = [] if data == b"[DONE]" else json.loads(data)["choices"]
    return int(choices[0]["index"]) if choices else 1000


@pytest.mark.parametrize("name", STREAMED)
async def test_a_whole_answer_is_the_engines(make_house: MakeHouse, name: str) -> None:
    whole = GROUPS[name]["whole"]
    house, engine = await house_of(make_house, whole)
    assert await sent(house, whole) == (200, "application/json", whole.answer)
    assert engine.requests == [whole.request], "a request that needs no change was changed"
    usage = json.loads(whole.answer)["usage"]
    assert house.counter("a") == usage["prompt_tokens"] + 2 * usage["completion_tokens"]


@pytest.mark.parametrize("cut", [None, 1, 100])
@pytest.mark.parametrize("name", STREAMED)
async def test_a_stream_is_the_engines_less_the_usage_that_was_not_asked_for(
    make_house: MakeHouse, name: str, cut: int | None
) -> None:
    group = GROUPS[name]
    if cut == 1 and len(with_usage(group).answer) > 30_000:
        pytest.skip("a hundred thousand writes of one byte show no more than fewer do")
    house, engine = await house_of(make_house, with_usage(group), cut=cut)
    for variant, wants_usage in (("stream", False), ("usage", True)):
        before = house.counter("a")
        status, kind, body = await sent(house, group[variant])
        right = shown(group, wants_usage, False)
        assert (status, kind) == (200, "text/event-stream; charset=utf-8")
        assert body == framed([*right.shown, b"[DONE]"])
        assert turns(body) == turns(group[variant].answer), "not what this engine sends without a gateway"
        assert less_options(json.loads(engine.requests[-1])) == less_options(json.loads(group[variant].request))
        usage = json.loads(data_of(group["usage"].answer)[-2])["usage"]
        assert house.counter("a") - before == usage["prompt_tokens"] + 2 * usage["completion_tokens"]


@pytest.mark.parametrize("name", [name for name in STREAMED if "continuous" in GROUPS[name]])
async def test_a_stream_that_asks_for_all_that_metering_needs_is_the_engines(make_house: MakeHouse, name: str) -> None:
    exchange = GROUPS[name]["continuous"]
    house, engine = await house_of(make_house, exchange)
    assert (await sent(house, exchange))[2] == exchange.answer
    assert engine.requests == [exchange.request], "a request that needs no change was changed"


@pytest.mark.parametrize("exchange", [each for each in REFUSED if each.variant != "continuous"], ids=str)
async def test_a_refusal_is_the_engines(make_house: MakeHouse, exchange: Exchange) -> None:
    """As long as it is not one of the gateway's own, which come before an engine is asked."""
    also = [each for each in GROUPS[exchange.name].values() if each.variant == "continuous"]
    house, _ = await house_of(make_house, exchange, *also)
    assert await sent(house, exchange) == (exchange.status, "application/json", exchange.answer)
    assert house.counter("a") == 0


@pytest.mark.parametrize("name", REFUSED_IN_STREAM)
async def test_a_stream_that_is_refused_in_its_first_event_is_the_clients_fault(
    make_house: MakeHouse, name: str
) -> None:
    """vLLM has begun to stream when it finds the request at fault: status 200, and an event with an error of code 400.
    The client hears what it would have heard without a stream, and no worker is the worse for it."""
    group = GROUPS[name]
    house, engine = await house_of(make_house, *group.values())
    status, kind, body = await sent(house, group["stream"])
    assert (status, kind) == (400, "application/json")
    assert json.loads(body) == json.loads(group["whole"].answer)
    assert len(engine.requests) == 1, "it was asked for the same again"
    assert house.worker().healthy


async def test_an_error_in_the_middle_of_a_stream_ends_it_after_all_that_came_before(make_house: MakeHouse) -> None:
    killed = GROUPS["killed"]["continuous"]
    house, _ = await house_of(make_house, killed)
    events = data_of((await sent(house, killed))[2])
    assert events[:-1] == data_of(killed.answer)[:-2]
    assert json.loads(events[-1])["error"]["code"] == "upstream_error"


@pytest.mark.parametrize("variant", ["whole", "continuous"])
async def test_an_engine_that_is_full_leaves_no_trace_in_the_answer(make_house: MakeHouse, variant: str) -> None:
    """503, or in a burst an event under status 200: the request goes back to the queue, and is answered in the end."""
    full, well = GROUPS["full"][variant], GROUPS["chat"][variant]
    house, engine = await house_of(make_house, full)
    engine.after_one = well
    assert (await sent(house, well))[2] == well.answer
    assert len(engine.requests) == 2


def test_the_corpus_has_what_it_is_for() -> None:
    """A recording that lost its streams would leave the tests above without a case."""
    assert len(STREAMED) >= 30
    assert len(REFUSED) >= 20
    assert set(REFUSED_IN_STREAM) == {"refused-top-logprobs", "refused-token-id"}
