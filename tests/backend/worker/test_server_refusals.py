"""Every request the worker refuses over HTTP: the status, the OpenAI error object, and a reason one can act on."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.worker.errors import ListenError
from backend.worker.main import assemble, listening

from ..tiny import save_tokenizer
from .client import CHAT, JSON, LONG, PROMPT, Client, Gate, config, serve


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
