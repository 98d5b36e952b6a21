"""The worker over HTTP: a real server on a free port, a tiny model, every refusal and every way to leave."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from backend.config import WorkerConfig
from backend.engine import Output
from backend.errors import ListenError
from backend.main import Worker, assemble, drain, listening

from .tiny import save_tokenizer

PROMPT = {"model": "tiny", "prompt": "abc", "temperature": 0, "max_tokens": 5, "ignore_eos": True}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "temperature": 0, "max_tokens": 5}
LONG = PROMPT | {"max_tokens": 200, "stream": True}
JSON = dict[str, Any]


@dataclass
class Client:
    """A client of one worker, and the worker itself to look inside."""

    worker: Worker
    url: str
    http: aiohttp.ClientSession

    async def post(self, path: str, body: object, **options: Any) -> tuple[int, JSON]:
        data = body if isinstance(body, bytes) else json.dumps(body)
        async with self.http.post(self.url + path, data=data, **options) as response:
            return response.status, await _body(response)

    async def get(self, path: str) -> tuple[int, JSON]:
        async with self.http.get(self.url + path) as response:
            return response.status, await _body(response)

    async def events(self, path: str, body: JSON) -> list[JSON | str]:
        async with self.http.post(self.url + path, json=body | {"stream": True}) as response:
            assert response.content_type == "text/event-stream"
            return [_event(block) for block in (await response.text()).split("\n\n") if block]

    async def metric(self, name: str) -> float:
        async with self.http.get(self.url + "/metrics") as response:
            families = text_string_to_metric_families(await response.text())
            return sum(sample.value for family in families for sample in family.samples if sample.name == name)

    async def until(self, name: str, value: float) -> None:
        """Wait for a metric to have a value; the test's timeout is the limit."""
        while await self.metric(name) != value:
            pass


class Gate:
    """Lets the engine make so many steps and then stand still, so that no test depends on who is faster."""

    def __init__(self, worker: Worker, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
        self._allowed = threading.Semaphore(steps)
        self._step = worker.engine._engine.step
        monkeypatch.setattr(worker.engine._engine, "step", self.step)

    def step(self) -> list[Output]:
        return self._step() if self._allowed.acquire(timeout=0.001) else []

    def allow(self, steps: int) -> None:
        self._allowed.release(steps)


async def _body(response: aiohttp.ClientResponse) -> JSON:
    if response.content_type == "application/json":
        return dict(await response.json())
    return {"text": await response.text()}


def _event(block: str) -> JSON | str:
    data = block.removeprefix("data: ")
    return data if data == "[DONE]" else json.loads(data)


def config(model_folder: Path, **changes: Any) -> WorkerConfig:
    options = {"served_name": "tiny", "port": 0, "kv_tokens": 1024, "max_running": 4, "max_len": 256, **changes}
    return WorkerConfig(model=str(model_folder), dtype="float32", deterministic=True, threads=1, **options)


async def serve(worker: Worker) -> AsyncIterator[Client]:
    async with listening(worker) as url, aiohttp.ClientSession() as http:
        yield Client(worker, url, http)


@pytest.fixture
async def client(model_folder: Path, adapter_folders: dict[str, Path]) -> AsyncIterator[Client]:
    worker = assemble(config(model_folder, adapters={"small": str(adapter_folders["small"])}))
    async for client in serve(worker):
        yield client


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


def without(body: JSON, name: str) -> JSON:
    return {key: value for key, value in body.items() if key != name}


REFUSALS: dict[str, tuple[str, object, int, str, str]] = {
    "not json": ("completions", b"{", 400, "not valid JSON", ""),
    "not utf-8": ("completions", b'{"model": "\xff"}', 400, "not valid JSON", ""),
    "a lone surrogate": ("completions", b'{"model": "tiny", "prompt": "\\uD800"}', 400, "not valid JSON", ""),
    "too deep": ("completions", b"[" * 100_000, 400, "not valid JSON", ""),
    "not a number": ("completions", b'{"model": "tiny", "prompt": "a", "top_p": NaN}', 400, "top_p", "top_p"),
    "no object": ("completions", b"[]", 400, "not a JSON object", ""),
    "no model": ("completions", without(PROMPT, "model"), 400, "model: Field required", "model"),
    "unknown model": ("completions", PROMPT | {"model": "gpt"}, 404, "'gpt' is not served here", "model"),
    "no prompt": ("completions", without(PROMPT, "prompt"), 400, "Field required", "prompt"),
    "empty prompt": ("completions", PROMPT | {"prompt": ""}, 400, "the prompt is empty", "prompt"),
    "two prompts": ("completions", PROMPT | {"prompt": ["a", "b"]}, 400, "prompt", "prompt"),
    "unknown token": ("completions", PROMPT | {"prompt": [999]}, 400, "prompt token 999", "prompt"),
    "no messages": ("chat/completions", CHAT | {"messages": []}, 400, "messages", "messages"),
    "an image": (
        "chat/completions",
        CHAT | {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
        400,
        "messages.0.content",
        "messages",
    ),
    "a role the template refuses": (
        "chat/completions",
        CHAT | {"messages": [{"role": "robot", "content": "x"}]},
        400,
        "unknown role robot",
        "messages",
    ),
    "n": ("completions", PROMPT | {"n": 2}, 400, "n = 2 is not supported", "n"),
    "logprobs": ("completions", PROMPT | {"logprobs": 1}, 400, "logprobs = 1 is not supported", "logprobs"),
    "chat logprobs": ("chat/completions", CHAT | {"logprobs": True}, 400, "logprobs = true", "logprobs"),
    "tools": ("chat/completions", CHAT | {"tools": [{}]}, 400, "tools", "tools"),
    "negative temperature": ("completions", PROMPT | {"temperature": -1}, 400, "temperature", "temperature"),
    "top_p": ("completions", PROMPT | {"top_p": 0}, 400, "top_p", "top_p"),
    "max_tokens": ("completions", PROMPT | {"max_tokens": 0}, 400, "max_tokens", "max_tokens"),
    "min_tokens": ("completions", PROMPT | {"min_tokens": 9}, 400, "min_tokens is 9; expected at most", "min_tokens"),
    "empty stop": ("completions", PROMPT | {"stop": ""}, 400, "stop", "stop"),
    "too long": ("completions", PROMPT | {"max_tokens": 254}, 400, "this worker takes 256 together", "max_tokens"),
    "prompt too long": (
        "chat/completions",
        without(CHAT, "max_tokens") | {"messages": [{"role": "user", "content": "x" * 300}]},
        400,
        "this worker takes 256 together",
        "max_tokens",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
async def test_what_cannot_be_served_is_refused_with_a_reason(case: str, client: Client) -> None:
    path, body, status, message, param = REFUSALS[case]
    got, answer = await client.post(f"/v1/{path}", body)
    assert got == status
    assert message in answer["error"]["message"]
    assert answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["param"] == (param or None)
    if status == 404:
        assert answer["error"]["code"] == "model_not_found"


async def test_too_large_a_body_and_too_large_a_request(model_folder: Path) -> None:
    async for client in serve(assemble(config(model_folder, max_body_bytes=1000, kv_tokens=64))):
        status, answer = await client.post("/v1/completions", PROMPT | {"prompt": "x" * 2000})
        assert (status, answer["error"]["code"]) == (413, "request_too_large")
        status, answer = await client.post("/v1/completions", PROMPT | {"max_tokens": 62})
        assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
        assert "this worker takes 64 together" in answer["error"]["message"]
        status, answer = await client.post("/v1/chat/completions", without(CHAT, "max_tokens") | {"ignore_eos": True})
        assert (status, answer["usage"]["total_tokens"]) == (200, 64)


async def test_an_unknown_path_and_method(client: Client) -> None:
    status, answer = await client.get("/v1/nothing")
    assert (status, answer["error"]["type"]) == (404, "invalid_request_error")
    assert (await client.get("/v1/completions"))[0] == 405


async def test_a_base_model_without_a_template_refuses_a_chat(model_folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(model_folder / name)
    save_tokenizer(tmp_path, chat_template=None)
    async for client in serve(assemble(config(tmp_path))):
        status, answer = await client.post("/v1/chat/completions", CHAT)
        assert status == 400
        assert "no chat template; use /v1/completions" in answer["error"]["message"]
        assert (await client.post("/v1/completions", PROMPT))[0] == 200


async def test_a_full_worker_says_503(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async for client in serve(assemble(config(model_folder, max_running=1, max_waiting=0))):
        gate = Gate(client.worker, monkeypatch, steps=1)
        async with client.http.post(client.url + "/v1/completions", json=LONG) as running:
            await running.content.readuntil(b"\n\n")
            status, answer = await client.post("/v1/completions", PROMPT)
            assert (status, answer["error"]["type"]) == (503, "overloaded_error")
        await client.until("vllm:num_requests_running", 0)
        gate.allow(5)
        assert (await client.post("/v1/completions", PROMPT))[0] == 200


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


async def test_a_bug_is_a_500_without_a_trace(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(text: str) -> list[int]:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(client.worker.server._tokenizer, "encode", broken)
    status, answer = await client.post("/v1/completions", PROMPT)
    assert (status, answer["error"]["type"]) == (500, "server_error")
    assert "secret" not in answer["error"]["message"]
    assert "secret detail" in caplog.text


async def test_a_port_that_is_taken(client: Client, model_folder: Path) -> None:
    port = int(client.url.rsplit(":", 1)[1])
    second = assemble(config(model_folder, port=port))
    with pytest.raises(ListenError, match=rf"cannot listen on 127\.0\.0\.1:{port}: Address already in use"):
        async with listening(second):
            pass


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


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"lora_name": "x"}, "lora_path: Field required"),
        ({"lora_name": "tiny", "lora_path": "x"}, "'tiny' is the base model"),
        ({"lora_name": "x", "lora_path": "nowhere"}, "adapter 'x' in nowhere: adapter_config.json cannot be read"),
    ],
)
async def test_an_adapter_that_cannot_be_loaded_is_refused(body: JSON, message: str, client: Client) -> None:
    status, answer = await client.post("/v1/load_lora_adapter", body)
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
    assert message in answer["error"]["message"]


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
