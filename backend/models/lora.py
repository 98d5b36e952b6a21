"""Adapters packed for the kernels: one LoraWeights per layer and group of fused projections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from backend.models.peft_format import Adapter
from backend.models.spec import ModelSpec
from kernels import NO_ADAPTER, LoraWeights, lora_add, pack_rows, plan_batch

GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))


class AdapterPack:
    """The weights of some adapters on `device`, side by side; an adapter's slot is its place among them."""

    def __init__(self, adapters: Sequence[Adapter], spec: ModelSpec, dtype: torch.dtype, device: torch.device) -> None:
        self.device = device
        self._slots = {adapter: slot for slot, adapter in enumerate(adapters)}
        self._weights = {
            (layer, group[0]): _pack(adapters, layer, group, spec, dtype, device)
            for layer in range(len(spec.layers))
            for group in GROUPS
            if any((layer, module) in adapter.updates for adapter in adapters for module in group)
        }

    def slot(self, adapter: Adapter | None) -> int:
        return NO_ADAPTER if adapter is None else self._slots[adapter]

    def weights(self, layer: int, group: str) -> LoraWeights | None:
        """Of the fused projections whose first is `group`; None when no adapter updates any of them."""
        return self._weights.get((layer, group))


class BatchLora:
    """What the adapters add to the linear layers of one batch."""

    def __init__(self, pack: AdapterPack, adapters: Sequence[Adapter | None], *, deterministic: bool = False) -> None:
        """Row i uses `adapters[i]`. `deterministic`: what is added to a row does not depend on the other rows."""
        self._pack = pack
        slots = [pack.slot(adapter) for adapter in adapters]
        self._plan = plan_batch(slots, device=pack.device, deterministic=deterministic)

    def add(self, layer: int, group: str, x: Tensor, out: Tensor) -> None:
        """out += scale * (x A) B, each row with its own adapter; x [rows, inputs], out [rows, outputs of the
        projections of `group` side by side]."""
        weights = self._pack.weights(layer, group) if self._plan.segments else None
        if weights is not None:
            lora_add(out, x, weights, self._plan)


def _pack(
    adapters: Sequence[Adapter],
    layer: int,
    group: Sequence[str],
    spec: ModelSpec,
    dtype: torch.dtype,
    device: torch.device,
) -> LoraWeights:
    updates = [[adapter.updates.get((layer, module)) for adapter in adapters] for module in group]
    stacked = [_stack([update.a for update in slot if update]) for slot in zip(*updates, strict=True)]
    return LoraWeights(
        a=pack_rows(stacked, spec.widths[group[0]][0], dtype, device),
        b=tuple(
            pack_rows([update.b if update else None for update in module], spec.widths[name][1], dtype, device)
            for name, module in zip(group, updates, strict=True)
        ),
        scales=tuple(tuple(update.scale if update else 0.0 for update in module) for module in updates),
    )


def _stack(parts: Sequence[Tensor]) -> Tensor | None:
    return torch.cat(list(parts)) if parts else None
