"""The device is an argument everywhere: nothing is made where torch happens to make it, nothing mixes two devices."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import backend
from backend.models import decoder as decoder_module
from backend.models import lora as lora_module
from backend.models.decoder import load_decoder
from backend.models.peft_format import load_adapter
from backend.models.tokenizer import Tokenizer
from backend.worker.config import WorkerSettings
from backend.worker.engine import Engine, Request
from backend.worker.errors import StartError
from backend.worker.lora import AdapterStore
from backend.worker.main import assemble
from backend.worker.sampling import SamplingParams
from kernels import AttentionPlan, BatchPlan, LoraWeights

from .tiny import build_model, configs, save_tokenizer
from .worker.client import config

# Whatever allocates: of torch, and of kernels and our own.
OF_TORCH = {
    *("arange", "as_tensor", "empty", "eye", "from_numpy", "full", "linspace", "ones", "rand", "randint", "randn"),
    *("randperm", "scalar_tensor", "tensor", "zeros", "Generator"),
}
OF_OURS = {
    *("pack_rows", "plan_attention", "plan_batch"),
    *("AdapterPack", "AdapterStore", "KvCache", "Rope", "Weights", "load_decoder"),
}
COPIES = ("aten.copy_.default", "aten._to_copy.default")  # the only operations between two devices
META = torch.device("meta")  # tensors without contents: only shapes and devices are computed


def forgotten(source: str) -> Iterator[str]:
    """Calls in `source` that make tensors and are not told where."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and allocates(node.func):
            told = [keyword.arg for keyword in node.keywords] + [last_name(argument) for argument in node.args]
            if not {"device", "_device"} & set(told):
                yield f"line {node.lineno}: {ast.unparse(node)}"


def allocates(called: ast.expr) -> bool:
    match called:
        case ast.Attribute(value=ast.Name(id="torch"), attr=name):
            return name in OF_TORCH
    return last_name(called) in OF_OURS


def last_name(node: ast.expr) -> str | None:
    """Of `x`, `a.x`, or a call of either."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=called):
            return last_name(called)
    return None


def test_whatever_makes_a_tensor_says_where() -> None:
    assert backend.__file__
    files = sorted(Path(backend.__file__).parent.rglob("*.py"))
    found = {str(file): calls for file in files if (calls := list(forgotten(file.read_text())))}
    assert found == {}
    assert len(files) > 20


@pytest.mark.parametrize(
    ("call", "is_forgotten"),
    [
        ("torch.zeros(3)", True),
        ("torch.tensor([1], dtype=torch.int64)", True),
        ("torch.tensor([1], device=self._device)", False),
        ("torch.Generator()", True),
        ("torch.Generator(device)", False),
        ("plan_batch([0])", True),
        ("KvCache(spec, 4, 16, dtype, decoder.device)", False),
        ("x.new_zeros(3)", False),
    ],
)
def test_control_a_forgotten_device_is_seen(call: str, is_forgotten: bool) -> None:
    assert bool(list(forgotten(call))) == is_forgotten


class OneDevice(TorchDispatchMode):
    """Remembers every operation, other than a copy, on tensors of more than one device."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        devices = {leaf.device for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        if len(devices) > 1 and str(func) not in COPIES:
            self.mixed.append(f"{func} on {sorted(map(str, devices))}")
        return func(*args, **(kwargs or {}))


def on_meta(*tensors: Tensor) -> None:
    assert [tensor.device for tensor in tensors] == [META] * len(tensors)


@pytest.fixture
def _kernels_without_contents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins that have no numbers to compute with: they check that all they are given lies on one device."""

    def attend(q: Tensor, keys: Tensor, values: Tensor, plan: AttentionPlan, *, scale: float, window: object) -> Tensor:
        on_meta(q, keys, values, plan.page_table, plan.new_slots, plan.tile_table(1))
        return torch.empty_like(q)

    def add(out: Tensor, x: Tensor, weights: LoraWeights, plan: BatchPlan) -> None:
        on_meta(out, x, weights.a.memory, *(b.memory for b in weights.b), plan.order, plan.token_slots)
        on_meta(plan.tile_table(1))

    monkeypatch.setattr(decoder_module, "paged_attention", attend)
    monkeypatch.setattr(lora_module, "lora_add", add)


@pytest.mark.usefixtures("_kernels_without_contents")
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_the_whole_stack_lies_on_the_device_it_is_told(
    name: str, deterministic: bool, tmp_path: Path, adapter_folders: dict[str, Path]
) -> None:
    """Weights, rope, cache, adapters, batches and what the sampler gets: prompts in chunks and decoding."""
    build_model(configs()[name], tmp_path)
    save_tokenizer(tmp_path)
    sampled = []

    def sampler(logits: Tensor, params: SamplingParams, source: torch.Generator | None) -> int:
        sampled.append(logits.device)
        return 0

    with OneDevice() as watch:
        decoder = load_decoder(tmp_path, torch.float32, 64, META)
        store = AdapterStore(decoder.spec, decoder.dtype, decoder.device)
        settings = WorkerSettings(
            model="tiny", kv_tokens=256, max_len=64, prefill_chunk=16, deterministic=deterministic
        )
        engine = Engine(decoder, Tokenizer(tmp_path), store, settings, sampler)
        for adapter, folder in adapter_folders.items():
            engine.load_adapter(load_adapter(adapter, folder, decoder.spec))
        greedy = SamplingParams(4, temperature=0.0, ignore_eos=True, min_tokens=2)
        for i, adapter in enumerate((None, *store.loaded)):
            engine.submit(Request(str(i), tuple(range(1, 20 + i)), greedy, adapter))
        while engine.busy:
            engine.step()
    assert watch.mixed == []
    assert sampled == [META] * 16


def test_control_two_devices_in_one_operation_are_seen() -> None:
    with OneDevice() as watch:
        torch.zeros(3, device=META).index_select(0, torch.zeros(1, dtype=torch.int64))
        torch.zeros(3, device=META).copy_(torch.zeros(3))
    assert watch.mixed == ["aten.index_select.default on ['cpu', 'meta']"]


def test_a_device_that_is_not_there_is_named(model_folder: Path) -> None:
    with pytest.raises(StartError, match=r"device 'cuda:63': torch finds \d+ CUDA devices here"):
        assemble(config(model_folder, device="cuda:63"))
