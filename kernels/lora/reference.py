"""Shrink and expand in plain torch: the meaning of the ops, on any device, one segment at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.lora.plan import BatchPlan
from kernels.lora.weights import LoraWeights


def lora_shrink_reference(x: Tensor, weights: LoraWeights, plan: BatchPlan) -> Tensor:
    """X A^T: [1, tokens, max rank] float32; columns from an adapter's rank on, and rows without one, are zero."""
    shrunk = x.new_zeros((1, plan.tokens, weights.a.max_rank), dtype=torch.float32)
    for segment in plan.segments:
        rows = plan.order[segment.start : segment.stop]
        a = weights.a.adapter(segment.slot).float()
        shrunk[0, rows, : a.shape[0]] = x[rows].float() @ a.T
    return shrunk


def lora_expand_reference(out: Tensor, shrunk: Tensor, weights: LoraWeights, plan: BatchPlan) -> None:
    """out += scale * shrunk B, slice by slice, in place."""
    total = shrunk.float().sum(0)
    for segment in plan.segments:
        rows = plan.order[segment.start : segment.stop]
        column, rank_row = 0, 0
        for b, scales in zip(weights.b, weights.scales, strict=True):
            rank = b.ranks[segment.slot]
            part = total[rows, rank_row : rank_row + rank] @ b.adapter(segment.slot).float()
            columns = slice(column, column + b.width)
            out[rows, columns] = (out[rows, columns].float() + scales[segment.slot] * part).to(out.dtype)
            column, rank_row = column + b.width, rank_row + rank
