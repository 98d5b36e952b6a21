"""The decoder against transformers on the same weights: prefill, prefill in chunks, and decoding over pages."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from backend.models.batch import Batch, Run
from backend.models.decoder import Decoder, load_decoder
from backend.models.kv_cache import KvCache
from backend.models.linear import Linear
from backend.models.lora import AdapterPack

from ..tiny import VOCAB, build_model, configs

PAGE = 16
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
PROMPTS = ([3, 250, 7, 99, 12, 55, 1], list(range(100, 141)), [42])


class Runner:
    """Feeds requests to a decoder, each over pages of its own."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.cache = KvCache(decoder.spec, 64, PAGE, decoder.dtype, decoder.device)
        self.pack = AdapterPack((), decoder.spec, decoder.dtype, decoder.device)
        self.free = iter(range(64))

    def open(self, tokens: int) -> list[int]:
        """Pages for so many tokens, backwards: those of a request are no neat row."""
        return list(itertools.islice(self.free, -(-tokens // PAGE)))[::-1]

    def run(self, *runs: Run) -> Tensor:
        return self.decoder.forward(Batch.mixed(runs, self.cache, self.pack), self.cache)


@pytest.mark.parametrize("name", configs())
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    reference = build_model(configs()[name], tmp_path)
    runner = Runner(load_decoder(tmp_path, torch.float32, 128))
    steps = torch.randint(0, VOCAB, (8, len(PROMPTS)), generator=torch.Generator().manual_seed(1)).tolist()
    pages = [runner.open(len(prompt) + len(steps)) for prompt in PROMPTS]
    texts = [list(prompt) for prompt in PROMPTS]

    def expected() -> Tensor:
        with torch.no_grad():
            return torch.stack([reference(torch.tensor([text])).logits[0, -1] for text in texts])

    logits = runner.run(*(Run(text, 0, table) for text, table in zip(texts, pages, strict=True)))
    torch.testing.assert_close(logits, expected(), **CLOSE)
    for tokens in steps:
        for text, token in zip(texts, tokens, strict=True):
            text.append(token)
        logits = runner.run(*(Run(text[-1:], len(text) - 1, table) for text, table in zip(texts, pages, strict=True)))
        torch.testing.assert_close(logits, expected(), **CLOSE)


@pytest.mark.parametrize("name", ["llama", "mistral-window", "gemma3"])
@pytest.mark.parametrize("chunk", [1, 7, 16, 30])
def test_a_prompt_in_chunks_beside_a_decoding_request_gives_the_same(name: str, chunk: int, tmp_path: Path) -> None:
    reference = build_model(configs()[name], tmp_path)
    runner = Runner(load_decoder(tmp_path, torch.float32, 128))
    prompt, other = PROMPTS[1], list(PROMPTS[0])
    pages, other_pages = runner.open(len(prompt)), runner.open(64)
    runner.run(Run(other, 0, other_pages))
    for start in range(0, len(prompt), chunk):
        other.append(start)
        beside = Run(other[-1:], len(other) - 1, other_pages)
        logits = runner.run(beside, Run(prompt[start : start + chunk], start, pages))
    with torch.no_grad():
        expected = torch.stack([reference(torch.tensor([text])).logits[0, -1] for text in (other, prompt)])
    torch.testing.assert_close(logits, expected, **CLOSE)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3"])
def test_bfloat16_stays_near_float32(name: str, tmp_path: Path) -> None:
    build_model(configs()[name], tmp_path)
    exact, rounded = (
        (runner := Runner(load_decoder(tmp_path, dtype, 128))).run(Run(PROMPTS[1], 0, runner.open(64)))
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert (exact - rounded).norm() / exact.norm() < 0.05
    assert not torch.equal(exact, rounded)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 8, 33])
@pytest.mark.parametrize("biased", [False, True])
def test_packed_weights_give_a_plain_product(rows: int, biased: bool, dtype: torch.dtype) -> None:
    x, weight, bias = (torch.randn(shape).to(dtype) for shape in ((rows, 48), (96, 48), (96,)))
    expected = torch.nn.functional.linear(x.double(), weight.double(), bias.double() if biased else None)
    found = Linear(weight, bias if biased else None)(x)
    assert found.dtype == dtype
    assert (found - expected).norm() <= 8 * torch.finfo(dtype).eps * expected.norm()
