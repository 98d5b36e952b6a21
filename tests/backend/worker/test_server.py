"""The worker over HTTP: what it answers, how it streams, and every way in which a client or the worker leaves."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from backend.worker.main import assemble, drain

from .client import CHAT, JSON, LONG, PROMPT, Client, Gate, config, serve


def text_of(events: list[JSON | str], chat: bool) -> str:
    choices = [choice for event in events if isinstance(event, dict) for choice in event["choices"]]
    return "".join(choice["delta"]["content"] if chat else choice["text"] for choice in choices)


async def test_a_completion_and_its_stream_say_the_same(client: Client) -> None:
    status, whole = await client.post("/v1/completions", PROMPT)
    assert status == 200
    assert whole["object"] == "text_completion"
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 5,
        "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    events = await client.events("/v1/completions", PROMPT)
    assert events[-1] == "[DONE]"
    assert len(events) == 5 + 1
    assert text_of(events, chat=False) == whole["choices"][0]["text"]
    assert all("usage" not in event for event in events[:-1])


async def test_a_chat_and_its_stream_say_the_same(client: Client) -> None:
    status, whole = await client.post("/v1/chat/completions", CHAT | {"ignore_eos": True})
    assert status == 200
    assert whole["object"] == "chat.completion"
    assert whole["choices"][0]["message"]["role"] == "assistant"
    assert whole["usage"]["prompt_tokens"] == len("<user:hi\n<assistant:")
    events = await client.events("/v1/chat/completions", CHAT | {"ignore_eos": True})
    assert isinstance(events[0], dict)
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert text_of(events, chat=True) == whole["choices"][0]["message"]["content"]


async def test_parts_of_text_are_one_message(client: Client) -> None:
    parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    split = CHAT | {"messages": [{"role": "user", "content": parts}]}
    answers = [(await client.post("/v1/chat/completions", body))[1]["choices"] for body in (CHAT, split)]
    assert answers[0] == answers[1]


async def test_usage_in_a_stream_comes_as_it_was_asked_for(client: Client) -> None:
    at_the_end = await client.events("/v1/completions", PROMPT | {"stream_options": {"include_usage": True}})
    assert [isinstance(event, dict) and "usage" in event for event in at_the_end] == [False] * 5 + [True, False]
    options = {"include_usage": True, "continuous_usage_stats": True}
    each = await client.events("/v1/completions", PROMPT | {"stream_options": options})
    assert each.pop() == "[DONE]"
    counted = [(len(event["choices"]), event["usage"]["completion_tokens"]) for event in each if event != "[DONE]"]  # type: ignore[index, call-overload]
    assert counted == [(1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (0, 5)]


async def test_the_openai_sdk_understands_it(client: Client) -> None:
    async with openai.AsyncOpenAI(base_url=client.url + "/v1", api_key="any", max_retries=0) as sdk:
        answer = await sdk.chat.completions.create(**CHAT)
        chunks = [chunk async for chunk in await sdk.chat.completions.create(**CHAT, stream=True)]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == answer.choices[0].message.content
        assert {model.id for model in (await sdk.models.list()).data} == {"tiny", "small"}
        with pytest.raises(openai.NotFoundError, match="'gpt' is not served here"):
            await sdk.chat.completions.create(**CHAT | {"model": "gpt"})


async def test_tokens_and_a_list_of_one_text_are_prompts_too(client: Client) -> None:
    tokens = client.worker.server._tokenizer.encode("abc")
    texts = [
        (await client.post("/v1/completions", PROMPT | {"prompt": prompt}))[1]["choices"][0]["text"]
        for prompt in ("abc", ["abc"], tokens)
    ]
    assert texts[0] == texts[1] == texts[2]


async def test_a_stop_string_ends_the_output_and_is_not_part_of_it(client: Client) -> None:
    body = PROMPT | {"max_tokens": 60}
    full = (await client.post("/v1/completions", body))[1]["choices"][0]["text"]
    at = next(i for i in range(5, len(full)) if full[i].isascii() and full.index(full[i]) == i)
    status, cut = await client.post("/v1/completions", body | {"stop": [full[at], "never said"]})
    assert status == 200
    assert cut["choices"][0] == {"index": 0, "text": full[:at], "logprobs": None, "finish_reason": "stop"}
    assert cut["usage"]["completion_tokens"] < 60


async def test_the_request_id_of_the_client_is_the_id_of_the_answer(client: Client) -> None:
    headers = {"X-Request-Id": "mine-1"}
    answers = await asyncio.gather(*(client.post("/v1/completions", PROMPT, headers=headers) for _ in range(2)))
    assert [(status, body["id"]) for status, body in answers] == [(200, "mine-1")] * 2
    for strange in ("x" * 200, "caf\u00e9"):
        status, answer = await client.post("/v1/completions", PROMPT, headers={"X-Request-Id": strange})
        assert (status, answer["id"].startswith("cmpl-")) == (200, True)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_its_pages_running_or_waiting(
    model_folder: Path, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async for client in serve(assemble(config(model_folder, max_running=1))):
        Gate(client.worker, monkeypatch, steps=3)
        body = LONG | {"stream": stream, "max_tokens": 250}
        running = asyncio.create_task(client.post("/v1/completions", body))
        await client.until("vllm:num_requests_running", 1)
        waiting = asyncio.create_task(client.post("/v1/completions", body))
        await client.until("vllm:num_requests_waiting", 1)
        await client.until("vllm:generation_tokens_total", 3)
        assert await client.metric("vllm:kv_cache_usage_perc") == 16 / 64
        for task in (waiting, running):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await client.until("vllm:num_requests_waiting", 0)
        await client.until("vllm:num_requests_running", 0)
        assert await client.metric("vllm:kv_cache_usage_perc") == 0
        assert await client.metric("vllm:generation_tokens_total") == 3
        assert client.worker.engine.open_requests == 0


async def test_adapters_come_and_go(client: Client, adapter_folders: dict[str, Path]) -> None:
    async def text(model: str) -> str:
        status, answer = await client.post("/v1/completions", PROMPT | {"model": model, "max_tokens": 20})
        assert (status, answer["model"]) == (200, model)
        return str(answer["choices"][0]["text"])

    assert (await client.post("/v1/completions", PROMPT | {"model": "all"}))[0] == 404
    base, small = await text("tiny"), await text("small")
    load = {"lora_name": "all", "lora_path": str(adapter_folders["all"])}
    assert (await client.post("/v1/load_lora_adapter", load))[0] == 200
    assert (await client.post("/v1/load_lora_adapter", load))[0] == 400
    together = await asyncio.gather(text("tiny"), text("small"), text("all"))
    assert together[:2] == [base, small]
    assert len(set(together)) == 3
    models = (await client.get("/v1/models"))[1]["data"]
    assert {model["id"]: model["parent"] for model in models} == {"tiny": None, "small": "tiny", "all": "tiny"}
    assert (await client.post("/v1/unload_lora_adapter", {"lora_name": "small"}))[0] == 200
    assert (await client.post("/v1/unload_lora_adapter", {"lora_name": "small"}))[0] == 404
    assert (await client.post("/v1/completions", PROMPT | {"model": "small"}))[0] == 404
    assert await text("all") == together[2]


async def test_metrics_are_those_a_gateway_reads(client: Client) -> None:
    await client.post("/v1/completions", PROMPT)
    async with client.http.get(client.url + "/metrics") as response:
        families = {family.name: family for family in text_string_to_metric_families(await response.text())}
    labels = families["vllm:cache_config_info"].samples[0].labels
    assert (labels["block_size"], labels["num_gpu_blocks"]) == ("16", "64")
    assert set(families["vllm:lora_requests_info"].samples[0].labels) == {
        "max_lora",
        "running_lora_adapters",
        "waiting_lora_adapters",
    }
    assert await client.metric("vllm:prompt_tokens_total") == 3
    assert await client.metric("vllm:generation_tokens_total") == 5
    assert await client.metric("vllm:request_success_total") == 1


async def test_draining_lets_streams_end_and_takes_nothing_new(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(client.worker, monkeypatch, steps=1)
    async with client.http.post(client.url + "/v1/completions", json=LONG) as running:
        first = await running.content.readuntil(b"\n\n")
        draining = asyncio.create_task(drain(client.worker))
        await asyncio.sleep(0)
        status, answer = await client.post("/v1/completions", PROMPT)
        assert (status, answer["error"]["type"]) == (503, "overloaded_error")
        assert (await client.get("/health"))[0] == 503
        gate.allow(199)
        rest = (first + await running.read()).decode()
        assert rest.count("data: ") == 201
        assert rest.endswith("data: [DONE]\n\n")
    await draining


async def test_an_engine_that_dies_ends_streams_with_an_error_and_fails_health(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await client.get("/health"))[0] == 200
    Gate(client.worker, monkeypatch, steps=1)
    async with client.http.post(client.url + "/v1/completions", json=LONG) as running:
        await running.content.readuntil(b"\n\n")

        def broken() -> None:
            raise RuntimeError("out of memory")

        monkeypatch.setattr(client.worker.engine._engine, "step", broken)
        events = (await running.text()).split("\n\n")
    error = json.loads(events[-2].removeprefix("data: "))["error"]
    assert (error["code"], "out of memory" in error["message"]) == ("engine_died", True)
    assert (await client.get("/health"))[0] == 503
    status, answer = await client.post("/v1/completions", PROMPT)
    assert (status, answer["error"]["code"]) == (500, "engine_died")
    assert "the engine stopped" in caplog.text


async def test_a_request_that_does_not_say_is_sampled_as_the_authors_do(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "greedy"
    shutil.copytree(model_folder, folder)
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(settings | {"temperature": 0}))
    unsaid = {key: value for key, value in PROMPT.items() if key != "temperature"} | {"max_tokens": 20}
    async for client in serve(assemble(config(folder))):
        answers = [(await client.post("/v1/completions", unsaid))[1]["choices"] for _ in range(2)]
        greedy = (await client.post("/v1/completions", unsaid | {"temperature": 0}))[1]["choices"]
        hot = (await client.post("/v1/completions", unsaid | {"temperature": 2}))[1]["choices"]
        assert answers == [greedy, greedy]
        assert hot != greedy
