"""Adapters: PEFT's own arithmetic in a mixed batch, and every adapter that is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from backend.models.batch import Batch, Run
from backend.models.decoder import Decoder, load_decoder
from backend.models.errors import AdapterError
from backend.models.kv_cache import KvCache
from backend.models.lora import AdapterPack
from backend.models.peft_format import Adapter, load_adapter

from ..tiny import VOCAB, load_reference

PROMPTS = ([3, 250, 7, 99, 12], list(range(100, 130)), [42], list(range(50)), [1, 2, 3], [9, 9, 9, 200])
WHO = ("small", None, "all", "patterned", "small", None)


@pytest.fixture(scope="module")
def decoder(model_folder: Path) -> Decoder:
    return load_decoder(model_folder, torch.float32, 128)


@pytest.fixture(scope="module")
def adapters(decoder: Decoder, adapter_folders: dict[str, Path]) -> dict[str | None, Adapter | None]:
    return {None: None} | {name: load_adapter(name, at, decoder.spec) for name, at in adapter_folders.items()}


def pack_of(decoder: Decoder, adapters: dict[str | None, Adapter | None]) -> AdapterPack:
    found = [adapter for adapter in adapters.values() if adapter]
    return AdapterPack(found, decoder.spec, decoder.dtype, decoder.device)


def logits_of_peft(model_folder: Path, adapter: Path | None, text: list[int]) -> Tensor:
    with torch.no_grad():
        return load_reference(model_folder, adapter)(torch.tensor([text])).logits[0, -1]


def forward(
    decoder: Decoder, pack: AdapterPack, who: list[Adapter | None], build: Callable[..., Batch]
) -> list[Tensor]:
    """Logits after the prompts and after one more token, all requests in one batch."""
    cache = KvCache(decoder.spec, 32, 16, torch.float32, decoder.device)
    pages = [range(4 * i, 4 * i + 4) for i in range(len(who))]
    cases = list(zip(PROMPTS, pages, who, strict=True))
    first = decoder.forward(build([Run(text, 0, at, adapter) for text, at, adapter in cases], cache, pack), cache)
    runs = [Run([7], len(text), at, adapter) for text, at, adapter in cases]
    return [first, decoder.forward(build(runs, cache, pack), cache)]


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_mixed_batch_equals_peft_one_by_one(
    deterministic: bool,
    model_folder: Path,
    decoder: Decoder,
    adapters: dict[str | None, Adapter | None],
    adapter_folders: dict[str, Path],
) -> None:
    pack = pack_of(decoder, adapters)

    def build(runs: list[Run], cache: KvCache, pack: AdapterPack) -> Batch:
        if deterministic:
            return Batch.fixed(runs, cache, pack, rows=128, last_rows=8)
        return Batch.mixed(runs, cache, pack)

    got = forward(decoder, pack, [adapters[name] for name in WHO], build)
    for step, more in enumerate(([], [7])):
        for row, (name, text) in enumerate(zip(WHO, PROMPTS, strict=True)):
            expected = logits_of_peft(model_folder, adapter_folders.get(name or ""), text + more)
            torch.testing.assert_close(got[step][row], expected, rtol=1e-4, atol=1e-4)


def test_the_adapters_of_the_test_above_matter(decoder: Decoder, adapters: dict[str | None, Adapter | None]) -> None:
    """The control: without them, every row that has one is far off."""
    pack = pack_of(decoder, adapters)
    tuned = forward(decoder, pack, [adapters[name] for name in WHO], Batch.mixed)[1]
    base = forward(decoder, pack, [None] * len(WHO), Batch.mixed)[1]
    far = (tuned - base).abs().amax(-1) > 0.1
    assert far.tolist() == [name is not None for name in WHO]


def edit_config(**changes: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return apply


def edit_tensors(edit: Callable[[dict[str, Tensor]], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        tensors = load_file(path)
        edit(tensors)
        save_file(tensors, path)

    return apply


def first_key(tensors: dict[str, Tensor]) -> str:
    return min(key for key in tensors if "lora_A" in key)


def add_tensor(name: str) -> Callable[[Path], None]:
    return edit_tensors(lambda tensors: tensors.update({name: torch.ones(2, 48)}))


REFUSALS = {
    "another method": (edit_config(peft_type="LOHA"), "peft_type = 'LOHA' is not supported; expected 'LORA'"),
    "dora": (edit_config(use_dora=True), "use_dora = True is not supported"),
    "bias": (edit_config(bias="lora_only"), "bias = 'lora_only' is not supported; expected 'none'"),
    "modules to save": (edit_config(modules_to_save=["lm_head"]), r"modules_to_save = \['lm_head'\]"),
    "pissa": (edit_config(init_lora_weights="pissa_niter_4"), "init_lora_weights = 'pissa_niter_4'"),
    "no rank": (edit_config(r=0), "no rank r of at least 1"),
    "another rank": (edit_config(r=3), r"lora_A is \[2, 48\]; expected \[3, 48\]"),
    "no config": (lambda folder: (folder / "adapter_config.json").unlink(), "adapter_config.json cannot be read"),
    "config is no JSON": (lambda folder: (folder / "adapter_config.json").write_text("{"), "cannot be read"),
    "no weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "safetensors cannot be read"),
    "cut weights": (
        lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"short"),
        "safetensors cannot be read",
    ),
    "no tensors": (edit_tensors(lambda tensors: tensors.clear()), "holds no tensors"),
    "half a pair": (edit_tensors(lambda tensors: tensors.pop(first_key(tensors))), "lora_B alone"),
    "NaN": (edit_tensors(lambda tensors: tensors[first_key(tensors)].fill_(torch.nan)), "infinities or NaN"),
    "embeddings": (add_tensor("base_model.model.model.embed_tokens.lora_embedding_A"), "embed_tokens"),
    "the head": (add_tensor("base_model.model.lm_head.lora_A.weight"), "lm_head"),
    "a layer too many": (
        add_tensor("base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight"),
        r"layers\.3\..*expected .* of layers 0\.\.2",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_an_adapter_that_cannot_be_applied_is_refused_by_name(
    case: str, decoder: Decoder, adapter_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(adapter_folders["small"], folder)
    spoil, message = REFUSALS[case]
    spoil(folder)
    with pytest.raises(AdapterError, match=message) as refusal:
        load_adapter("mine", folder, decoder.spec)
    assert str(refusal.value).startswith(f"adapter 'mine' in {folder}: ")


def test_an_adapter_of_another_model_is_refused(decoder: Decoder, adapter_folders: dict[str, Path]) -> None:
    assert decoder.spec.vocab == VOCAB
    wider = type(decoder.spec)(
        **{name: getattr(decoder.spec, name) for name in decoder.spec.__slots__} | {"hidden": 64}
    )
    with pytest.raises(AdapterError, match=r"lora_A is \[2, 48\]; expected \[2, 64\]"):
        load_adapter("mine", adapter_folders["small"], wider)
