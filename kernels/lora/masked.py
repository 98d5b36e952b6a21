"""The masked CPU strategy: one product with all rank rows between the first and the last adapter of the batch, after
which each token keeps its own adapter's columns. Most arithmetic, fewest calls: for small batches of mixed ranks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.errors import require
from kernels.lora.plan import BatchPlan
from kernels.lora.rows import RankRows
from kernels.lora.weights import LoraWeights

ROWS_AT_MOST = 4  # times the rank rows in use: beyond it the wide product is not worth measuring


@dataclass(frozen=True, slots=True)
class Mask:
    """Per slice: which columns of the wide product are its rank rows, where a token may not look, its scale.

    columns  int64 [rows of the slice]
    others   bool [tokens, rows of the slice]: another adapter's
    scales   [tokens, 1]
    """

    columns: tuple[Tensor, ...]
    others: tuple[Tensor, ...]
    scales: tuple[Tensor, ...]


def _span(plan: BatchPlan) -> range:
    return range(plan.segments[0].slot, plan.segments[-1].slot + 1)


def masked_applies(weights: LoraWeights, plan: BatchPlan) -> bool:
    """Whether the rows lie one after another, and few of them belong to adapters that are not in the batch."""
    used = sum(weights.a.ranks[segment.slot] for segment in plan.segments)
    few = 0 < sum(weights.a.ranks[slot] for slot in _span(plan)) <= ROWS_AT_MOST * used
    return few and all(rows.run(_span(plan)) is not None for rows in (weights.a, *weights.b))


def _mask(weights: LoraWeights, plan: BatchPlan) -> Mask:
    key = ("mask", weights.slice_ranks, weights.scales, weights.a.memory.dtype)
    return plan.derive(key, lambda: _make_mask(weights, plan))


def _make_mask(weights: LoraWeights, plan: BatchPlan) -> Mask:
    span = _span(plan)
    slices = range(len(weights.b))
    pieces = [(slot, i) for slot in span for i in slices for _ in range(weights.b[i].ranks[slot])]
    owner = torch.tensor([slot for slot, _ in pieces])
    part = torch.tensor([i for _, i in pieces])
    columns = tuple((part == i).nonzero()[:, 0] for i in slices)
    table = torch.tensor(weights.scales, dtype=weights.a.memory.dtype)
    return Mask(
        columns=columns,
        others=tuple(plan.token_slots[:, None] != owner[column][None, :] for column in columns),
        scales=tuple(table[i][plan.token_slots.clamp(min=0).long()][:, None] for i in slices),
    )


def add_masked(out: Tensor, x: Tensor, weights: LoraWeights, plan: BatchPlan) -> None:
    """out += scale * (x A) B, in place."""
    mask, span = _mask(weights, plan), _span(plan)
    wide = x @ _run(weights.a, span).T
    column = 0
    for b, columns, others, scales in zip(weights.b, mask.columns, mask.others, mask.scales, strict=True):
        if len(columns):
            v = wide if len(weights.b) == 1 else wide.index_select(1, columns)
            v = v.masked_fill_(others, 0).mul_(scales)
            out[:, column : column + b.width].addmm_(v, _run(b, span))
        column += b.width


def _run(rows: RankRows, span: range) -> Tensor:
    run = rows.run(span)
    require(run is not None, "the masked strategy needs packed rows; ask masked_applies first")
    return run
