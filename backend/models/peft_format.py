"""LoRA adapters (arXiv:2106.09685) as PEFT saves them: adapter_config.json and adapter_model.safetensors.

A module's update is scale * (x A^T) B^T, with scale = alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA
(arXiv:2312.03732); rank_pattern and alpha_pattern override r and alpha for the modules they match.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from backend.models.errors import AdapterError
from backend.models.spec import ModelSpec

TENSOR = re.compile(r"base_model\.model\.(.*layers\.(\d+)\.(?:self_attn|mlp)\.(\w+))\.lora_([AB])\.weight")

# What each key must be, one of these, for the arithmetic above to be the whole truth.
REQUIRED: Mapping[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "use_dora": (False, None),
    "bias": ("none", None),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, [], {}),
    "target_parameters": (None, []),
    "alora_invocation_tokens": (None, []),
    "use_qalora": (False, None),
    "use_bdlora": (False, None),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "velora_config": (None,),
    "monteclora_config": (None,),
}
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # initialisations that rewrite the base weights


@dataclass(frozen=True, slots=True)
class Update:
    """One module's update: `a` [rank, inputs], `b` [rank, outputs] (B transposed), and the factor on their product."""

    a: Tensor
    b: Tensor
    scale: float


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Adapter:
    """A loaded adapter: its updates by (layer, module name), in host memory. Two loads of one folder are two
    adapters."""

    name: str
    path: str
    updates: Mapping[tuple[int, str], Update]

    def __repr__(self) -> str:
        return f"Adapter({self.name!r}, {self.path!r})"


def load_adapter(name: str, folder: Path, spec: ModelSpec) -> Adapter:
    """The adapter in `folder`, for a model of `spec`. Raises AdapterError, naming the key or tensor."""
    try:
        config = _read_config(folder)
        return Adapter(name, str(folder), _updates(config, _read_tensors(folder), spec))
    except AdapterError as error:
        raise AdapterError(f"adapter {name!r} in {folder}: {error}") from None


def _read_config(folder: Path) -> Mapping[str, Any]:
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
    except (OSError, ValueError) as error:
        raise AdapterError(f"adapter_config.json cannot be read ({_why(error)})") from None
    if not isinstance(config, dict) or not isinstance(config.get("r"), int) or config["r"] < 1:
        raise AdapterError("adapter_config.json has no rank r of at least 1")
    for key, allowed in REQUIRED.items():
        if config.get(key, allowed[0]) not in allowed:
            raise AdapterError(f"{key} = {config[key]!r} is not supported; expected {allowed[0]!r}")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(CHANGES_BASE):
        raise AdapterError(f"init_lora_weights = {start!r} is not supported: it changes the base model's weights")
    return config


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    try:
        return load_file(folder / "adapter_model.safetensors")
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"adapter_model.safetensors cannot be read ({_why(error)})") from None


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _updates(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], spec: ModelSpec
) -> dict[tuple[int, str], Update]:
    halves: dict[tuple[int, str, str], dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        path, layer, module, half = _parse(key, spec)
        halves.setdefault((layer, module, path), {})[half] = tensor
    if not halves:
        raise AdapterError("adapter_model.safetensors holds no tensors")
    return {
        (layer, module): _update(config, path, spec.widths[module], pair)
        for (layer, module, path), pair in halves.items()
    }


def _parse(key: str, spec: ModelSpec) -> tuple[str, int, str, str]:
    match = TENSOR.fullmatch(key)
    if match is None or match[3] not in spec.widths or int(match[2]) >= len(spec.layers):
        modules = ", ".join(spec.widths)
        raise AdapterError(f"tensor {key} is not supported; expected {modules} of layers 0..{len(spec.layers) - 1}")
    return match[1], int(match[2]), match[3], match[4]


def _update(config: Mapping[str, Any], path: str, widths: tuple[int, int], pair: Mapping[str, Tensor]) -> Update:
    if len(pair) != 2:
        raise AdapterError(f"{path} has lora_{next(iter(pair))} alone; expected lora_A and lora_B")
    rank = _pattern(config.get("rank_pattern"), path, config["r"])
    alpha = _pattern(config.get("alpha_pattern"), path, config["lora_alpha"])
    shapes = {"A": (rank, widths[0]), "B": (widths[1], rank)}
    for half, tensor in pair.items():
        if tuple(tensor.shape) != shapes[half]:
            raise AdapterError(f"{path}.lora_{half} is {list(tensor.shape)}; expected {list(shapes[half])}")
        if not torch.isfinite(tensor).all():
            raise AdapterError(f"{path}.lora_{half} holds infinities or NaN")
    scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    return Update(pair["A"], pair["B"].T.contiguous(), scale)


def _pattern(patterns: Mapping[str, Any] | None, path: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of the module's path, as PEFT finds it."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            return value
    return default
