"""Tensors of a Hugging Face folder, by name, each taken once and checked against the shape the model expects."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from backend.models.errors import LoadError


class Weights:
    """The safetensors files of `folder`, read lazily, converted to `dtype` and put on `device`. Raises LoadError."""

    def __init__(self, folder: Path, dtype: torch.dtype, device: torch.device) -> None:
        self._folder = folder
        self._dtype = dtype
        self._device = device
        try:
            self._files = {name: safe_open(folder / name, "pt") for name in _file_names(folder)}
        except (OSError, SafetensorError) as error:
            raise LoadError(f"{folder}: weights cannot be read ({error})") from None
        self._where = {tensor: file for file in self._files.values() for tensor in file.keys()}  # noqa: SIM118

    def take(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """The tensor `name`. Raises LoadError when it is missing or has another shape."""
        if name not in self._where:
            raise LoadError(f"{self._folder}: the tensor {name} is missing")
        tensor: Tensor = self._where.pop(name).get_tensor(name)
        if tuple(tensor.shape) != shape:
            raise LoadError(f"{self._folder}: {name} has shape {tuple(tensor.shape)}; config.json says {shape}")
        return tensor.to(self._device, dtype or self._dtype)

    def take_if_there(self, name: str, *shape: int) -> Tensor | None:
        return self.take(name, *shape) if name in self._where else None

    def refuse_leftovers(self, ignored: tuple[str, ...]) -> None:
        """A tensor that nobody took would have changed the result. Raises LoadError naming it."""
        left = sorted(name for name in self._where if not name.endswith(ignored))
        if left:
            raise LoadError(f"{self._folder}: {len(left)} tensors are not supported, the first is {left[0]}")


def _file_names(folder: Path) -> list[str]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return sorted(set(json.loads(index.read_text())["weight_map"].values()))
    return ["model.safetensors"]
