"""The engine with every kernel in Triton, interpreted. Run by ../test_triton.py, which sets TRITON_INTERPRET first."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from backend.models.decoder import Decoder, load_decoder
from backend.models.peft_format import Adapter, load_adapter
from backend.models.tokenizer import Tokenizer
from backend.worker.config import WorkerSettings
from backend.worker.engine import Engine, Request
from backend.worker.lora import AdapterStore
from backend.worker.sampling import SamplingParams, sample
from kernels.launch import KernelCall

from ..tiny import build_model, configs, load_reference, save_adapters, save_tokenizer

PROMPTS = (3, 37, 16, 1, 21, 5)  # tokens; a chunk has 16
WHO = (None, "small", "all", "patterned", "small", None)
OUTPUT = 6
NEAR_TIE = 1e-3  # logits; what rounds differently differs by less than a tenth of it


@dataclass
class Model:
    """A tiny model that runs, and the files that the reference is made of."""

    folder: Path
    adapter_folders: dict[str, Path]
    decoder: Decoder
    adapters: dict[str, Adapter]

    def reference(self, adapter: str | None, text: list[int]) -> Tensor:
        """Logits [tokens, vocab] after each token of `text`."""
        with torch.no_grad():
            model = load_reference(self.folder, self.adapter_folders.get(adapter or ""))
            return model(torch.tensor([text])).logits[0]  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    root = tmp_path_factory.mktemp(request.param)
    build_model(configs()[request.param], root)
    save_tokenizer(root)
    folders = save_adapters(root, root / "adapters")
    decoder = load_decoder(root, torch.float32, 64)
    return Model(root, folders, decoder, {name: load_adapter(name, at, decoder.spec) for name, at in folders.items()})


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each kernel was launched."""
    counts: Counter[str] = Counter()
    run = KernelCall.run

    def counted(call: KernelCall) -> None:
        counts[call.kernel.__name__] += 1
        run(call)

    monkeypatch.setattr(KernelCall, "run", counted)
    return counts


def requests(model: Model) -> list[Request]:
    texts = torch.Generator().manual_seed(7)
    return [
        Request(
            str(i),
            tuple(torch.randint(0, 256, (length,), generator=texts).tolist()),
            SamplingParams(OUTPUT, temperature=0.0, seed=i, ignore_eos=True),
            model.adapters[name] if name else None,
        )
        for i, (length, name) in enumerate(zip(PROMPTS, WHO, strict=True))
    ]


def generate(model: Model, asked: list[Request], *, deterministic: bool = False) -> dict[str, Tensor]:
    """Logits [OUTPUT, vocab] of each request; one joins at every step."""
    logits: dict[str, list[Tensor]] = {request.id: [] for request in asked}

    def keep(row: Tensor, params: SamplingParams, source: torch.Generator | None) -> int:
        logits[str(params.seed)].append(row.clone())
        return sample(row, params, source)

    settings = WorkerSettings(
        model=str(model.folder), max_len=64, kv_tokens=1024, prefill_chunk=16, deterministic=deterministic
    )
    decoder = model.decoder
    store = AdapterStore(decoder.spec, decoder.dtype, decoder.device)
    engine = Engine(decoder, Tokenizer(model.folder), store, settings, keep)
    for adapter in model.adapters.values():
        engine.load_adapter(adapter)
    for request in asked:
        engine.submit(request)
        engine.step()
    while engine.busy:
        engine.step()
    engine.check_integrity()
    return {name: torch.stack(rows) for name, rows in logits.items()}


def test_every_token_is_the_references(model: Model, launched: Counter[str]) -> None:
    """Mixed ranks and no adapter in one batch, prompts in chunks beside decoding, against PEFT one by one."""
    asked = requests(model)
    logits = generate(model, asked)
    for request, name in zip(asked, WHO, strict=True):
        said = logits[request.id].argmax(-1).tolist()
        text = [*request.prompt, *said]
        expected = model.reference(name, text)[len(request.prompt) - 1 : -1]
        best = expected.topk(2).values
        assert (best[:, 0] - best[:, 1]).min() > NEAR_TIE, "a near tie says nothing: choose another prompt"
        assert said == expected.argmax(-1).tolist(), request.id
        torch.testing.assert_close(logits[request.id], expected, rtol=1e-4, atol=1e-4)
        if name:  # the control: who leaves the adapter out is far off
            assert (logits[request.id] - model.reference(None, text)[len(request.prompt) - 1 : -1]).abs().max() > 0.1
    lora = {f"{half}_{kind}_kernel" for half in ("shrink", "expand") for kind in ("rows", "tiles")}
    assert set(launched) == {"attention_kernel", *lora}


@pytest.mark.parametrize("model", ["llama"], indirect=True)
def test_in_the_deterministic_mode_company_changes_no_bit(model: Model) -> None:
    asked = requests(model)
    mixed = generate(model, [asked[0], *asked[2:5]], deterministic=True)
    alone = generate(model, [asked[2]], deterministic=True)
    assert torch.equal(mixed[asked[2].id], alone[asked[2].id])
