"""Launching the Triton attention kernels: tile sizes, and how many stretches the context is split into."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from kernels.attention_plan import AttentionPlan
from kernels.attention_triton import attention_kernel, join_kernel
from kernels.lora_cuda import precision

LOG2_E = math.log2(math.e)
LEAST_STRETCH = 256  # keys; a shorter stretch is not worth joining


@dataclass(frozen=True, slots=True)
class AttentionLaunch:
    """queries: tokens of one tile; keys: per step; stretch: keys of one program, None for the whole context."""

    queries: int
    keys: int = 64
    stretch: int | None = None


DETERMINISTIC = AttentionLaunch(queries=1, keys=64, stretch=1024)


def paged_attention_cuda(
    q: Tensor, keys: Tensor, values: Tensor, plan: AttentionPlan, *, scale: float, window: int | None = None
) -> Tensor:
    """See `kernels.paged_attention`."""
    launch = DETERMINISTIC if plan.deterministic else _launch(q, keys, plan)
    return attend_with(launch, q, keys, values, plan, scale=scale, window=window)


def attend_with(
    launch: AttentionLaunch,
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    plan: AttentionPlan,
    *,
    scale: float,
    window: int | None = None,
) -> Tensor:
    tokens, heads, dim = q.shape
    kv_heads = keys.shape[2]
    group, block_d = heads // kv_heads, max(16, triton.next_power_of_2(dim))
    tiles = plan.tile_table(launch.queries)
    longest = max(plan.context_lengths)
    stretches = math.ceil(longest / launch.stretch) if launch.stretch else 1
    split = stretches > 1 or plan.deterministic
    out = torch.empty_like(q)
    partial = q.new_empty((stretches, tokens, heads, dim) if split else (1,), dtype=torch.float32)
    stats = q.new_empty((stretches, tokens, heads, 2) if split else (1,), dtype=torch.float32)
    rows = max(16, triton.next_power_of_2(launch.queries * group))
    attention_kernel[(len(tiles), kv_heads, stretches)](
        q,
        keys,
        values,
        out,
        partial,
        stats,
        plan.page_table,
        tiles,
        *q.stride()[:2],
        *keys.stride()[:3],
        *values.stride()[:3],
        *out.stride()[:2],
        plan.page_table.stride(0),
        tokens,
        heads,
        plan.page_tokens,
        scale * LOG2_E,
        window or 0,
        GROUP=group,
        DIM=dim,
        BLOCK_D=block_d,
        BLOCK_Q=launch.queries,
        BLOCK_M=rows,
        BLOCK_K=launch.keys,
        STRETCH=launch.stretch or 0,
        SPLIT=split,
        WINDOWED=window is not None,
        PRECISION=precision(q.dtype),
        # One stage: ptxas before 13.3 miscompiles a pipelined wgmma whose first operand is converted in registers.
        num_stages=1 if rows >= 64 else 2,
        num_warps=4 if rows * block_d <= 64 * 128 else 8,
    )
    if split:
        sizes = (tokens, heads, stretches)
        join_kernel[(tokens, heads)](partial, stats, out, *out.stride()[:2], *sizes, DIM=dim, BLOCK_D=block_d)
    return out


def _launch(q: Tensor, keys: Tensor, plan: AttentionPlan) -> AttentionLaunch:
    """Tiles of about 64 rows (16 for decoding); a split context where they leave multiprocessors idle."""
    group = q.shape[1] // keys.shape[2]
    queries = 1 if plan.decode_only else max(1, 64 // triton.next_power_of_2(group))
    programs = keys.shape[2] * sum(math.ceil(length / queries) for length in plan.query_lengths)
    wanted = 2 * torch.cuda.get_device_properties(q.device).multi_processor_count // max(1, programs)
    if wanted < 2 or max(plan.context_lengths) < 2 * LEAST_STRETCH:
        return AttentionLaunch(queries)
    stretch = max(LEAST_STRETCH, triton.next_power_of_2(math.ceil(max(plan.context_lengths) / wanted)))
    return AttentionLaunch(queries, stretch=stretch)
