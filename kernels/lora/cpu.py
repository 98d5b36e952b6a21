"""Shrink and expand on a CPU, where a torch call costs as much as a small product: few, large products.

The grouped and the masked strategy give the same sums; which is faster is measured once per shape of batch. The
deterministic mode has its own: tiles of fixed shape.
"""

from __future__ import annotations

from torch import Tensor

from kernels.choice import MeasuredChoice, wall_seconds
from kernels.lora.grouped import add_grouped, expand_grouped, grouping, shrink_grouped, split_shrunk
from kernels.lora.masked import add_masked, masked_applies
from kernels.lora.plan import BatchPlan
from kernels.lora.tiles import add_tiles, expand_tiles, shrink_tiles
from kernels.lora.weights import LoraWeights

_choice = MeasuredChoice(wall_seconds)


def lora_add_cpu(out: Tensor, x: Tensor, weights: LoraWeights, plan: BatchPlan) -> None:
    """out += scale * (x A) B by the fastest strategy for the shape; see `kernels.lora_add`."""
    if plan.deterministic:
        add_tiles(out, x, weights, plan)
    elif _masked_is_faster(out, x, weights, plan):
        add_masked(out, x, weights, plan)
    else:
        add_grouped(out, x, weights, plan)


def lora_shrink_cpu(x: Tensor, weights: LoraWeights, plan: BatchPlan) -> Tensor:
    """[1, tokens, max rank] in x's dtype; see `kernels.lora_shrink`."""
    shrink = shrink_tiles if plan.deterministic else shrink_grouped
    return shrink(x, weights, plan)[None]


def lora_expand_cpu(out: Tensor, shrunk: Tensor, weights: LoraWeights, plan: BatchPlan) -> None:
    """In place; see `kernels.lora_expand`."""
    if plan.deterministic:
        expand_tiles(out, shrunk[0], weights, plan)
    else:
        group = grouping(weights, plan)
        expand_grouped(out, split_shrunk(shrunk[0], group), weights, group)


def _masked_is_faster(out: Tensor, x: Tensor, weights: LoraWeights, plan: BatchPlan) -> bool:
    """Remembered per plan, and beyond it per shape: measured only for a shape never seen."""
    key = ("masked", weights.in_width, weights.out_width, weights.slice_ranks, x.dtype)
    return plan.derive(key, lambda: masked_applies(weights, plan) and _measure(out, x, weights, plan) == "masked")


def _measure(out: Tensor, x: Tensor, weights: LoraWeights, plan: BatchPlan) -> str:
    buckets = len(grouping(weights, plan).buckets)
    rows = sum(weights.a.ranks[segment.slot] for segment in plan.segments)
    shape = (x.dtype, weights.in_width, weights.out_width, plan.tokens.bit_length(), rows.bit_length(), buckets)
    scratch = out.clone()
    candidates = {
        "grouped": lambda: add_grouped(scratch, x, weights, plan),
        "masked": lambda: add_masked(scratch, x, weights, plan),
    }
    return _choice.pick(shape, candidates)
