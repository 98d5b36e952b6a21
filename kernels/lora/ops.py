"""The lora ops: shrink (X A), expand (Y += s (X A) B), and both in one call. `kernels.dispatch` says whether Triton's
kernels run them or the CPU's.
"""

from __future__ import annotations

from torch import Tensor

from kernels.dispatch import runs_triton
from kernels.errors import require
from kernels.lora.cpu import lora_add_cpu, lora_expand_cpu, lora_shrink_cpu
from kernels.lora.plan import BatchPlan
from kernels.lora.weights import LoraWeights


def lora_shrink(x: Tensor, weights: LoraWeights, plan: BatchPlan) -> Tensor:
    """X A^T for every token's own adapter.

    x [tokens, input], rows contiguous. Returns [splits, tokens, max rank] partial sums over the input width: their
    sum over the first dimension is X A^T. Columns from an adapter's rank on, and rows without an adapter, are
    unspecified; `lora_expand` reads neither. Raises KernelError where shapes do not fit together.
    """
    _check(x, weights.in_width, "x", plan)
    if runs_triton(x):
        from kernels.lora.cuda import lora_shrink_cuda

        return lora_shrink_cuda(x, weights, plan)
    return lora_shrink_cpu(x, weights, plan)


def lora_expand(out: Tensor, shrunk: Tensor, weights: LoraWeights, plan: BatchPlan) -> None:
    """out += scale * (shrunk B), in place.

    out [tokens, sum of the slices' outputs], the slices side by side, rows contiguous; shrunk from `lora_shrink`
    with the same weights and plan. Rows without an adapter are not touched. Raises KernelError.
    """
    _check(out, weights.out_width, "out", plan)
    if runs_triton(out):
        from kernels.lora.cuda import lora_expand_cuda

        return lora_expand_cuda(out, shrunk, weights, plan)
    return lora_expand_cpu(out, shrunk, weights, plan)


def lora_add(out: Tensor, x: Tensor, weights: LoraWeights, plan: BatchPlan) -> None:
    """out += scale * (X A) B: `lora_shrink` and `lora_expand` in one call, in place. Raises KernelError."""
    _check(x, weights.in_width, "x", plan)
    _check(out, weights.out_width, "out", plan)
    if not plan.segments:
        return None
    if runs_triton(out):
        from kernels.lora.cuda import lora_add_cuda

        return lora_add_cuda(out, x, weights, plan)
    return lora_add_cpu(out, x, weights, plan)


def _check(rows: Tensor, width: int, name: str, plan: BatchPlan) -> None:
    shape = list(rows.shape)
    require(shape == [plan.tokens, width], f"{name} is {shape}; expected [{plan.tokens}, {width}]")
