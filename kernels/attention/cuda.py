"""Launching the Triton attention kernels: tile sizes, and how many stretches the context is split into."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import triton
from torch import Tensor

from kernels.attention.plan import AttentionPlan
from kernels.attention.triton import attention_kernel, join_kernel
from kernels.launch import KernelCall, multiprocessor_count, precision

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
    stretches = math.ceil(max(plan.context_lengths) / launch.stretch) if launch.stretch else 1
    split = stretches > 1 or plan.deterministic
    tokens, heads, dim = q.shape
    out = torch.empty_like(q)
    partial = q.new_empty((stretches, tokens, heads, dim) if split else (1, 1, 1, 1), dtype=torch.float32)
    stats = q.new_empty((stretches, tokens, heads, 2) if split else (1, 1, 1, 1), dtype=torch.float32)
    attention_call(launch, out, partial, stats, q, keys, values, plan, split, scale, window).run()
    if split:
        join_call(out, partial, stats).run()
    return out


def attention_call(
    launch: AttentionLaunch,
    out: Tensor,
    partial: Tensor,
    stats: Tensor,
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    plan: AttentionPlan,
    split: bool,
    scale: float,
    window: int | None,
) -> KernelCall:
    tokens, heads, dim = q.shape
    kv_heads = keys.shape[2]
    tiles = plan.tile_table(launch.queries)
    rows = max(16, triton.next_power_of_2(launch.queries * (heads // kv_heads)))
    arguments = {"q": q, "keys": keys, "values": values, "out": out, "partial": partial, "stats": stats}
    arguments |= {"page_table": plan.page_table, "tiles": tiles, "table_stride": plan.page_table.stride(0)}
    arguments |= _strides(q, "q", ("token", "head")) | _strides(out, "out", ("token", "head"))
    arguments |= _strides(keys, "k", ("page", "token", "head")) | _strides(values, "v", ("page", "token", "head"))
    arguments |= {"tokens": tokens, "heads": heads, "page_tokens": plan.page_tokens}
    arguments |= {"scale": scale * LOG2_E, "window": window or 0}
    constants = {"GROUP": heads // kv_heads, "BLOCK_Q": launch.queries, "BLOCK_M": rows, "BLOCK_K": launch.keys}
    constants |= {"STRETCH": launch.stretch or 0, "SPLIT": split, "WINDOWED": window is not None}
    constants |= {"DIM": dim, "BLOCK_D": _block_d(dim), "PRECISION": precision(q.dtype)}
    # One stage: ptxas before 13.3 miscompiles a pipelined wgmma whose first operand is converted in registers.
    options = {"num_stages": 1 if rows >= 64 or q.dtype == torch.float32 else 2}
    options["num_warps"] = 4 if rows * _block_d(dim) <= 64 * 64 else 8
    return KernelCall(attention_kernel, (len(tiles), kv_heads, partial.shape[0]), arguments, constants, options)


def join_call(out: Tensor, partial: Tensor, stats: Tensor) -> KernelCall:
    stretches, tokens, heads, dim = partial.shape
    arguments = {"partial": partial, "stats": stats, "out": out, **_strides(out, "out", ("token", "head"))}
    arguments |= {"tokens": tokens, "heads": heads, "stretches": stretches}
    return KernelCall(join_kernel, (tokens, heads, 1), arguments, {"DIM": dim, "BLOCK_D": _block_d(dim)})


def _strides(tensor: Tensor, name: str, dimensions: tuple[str, ...]) -> dict[str, int]:
    return {f"{name}_{dimension}": tensor.stride(i) for i, dimension in enumerate(dimensions)}


def _block_d(dim: int) -> int:
    return max(16, triton.next_power_of_2(dim))


def _launch(q: Tensor, keys: Tensor, plan: AttentionPlan) -> AttentionLaunch:
    """The tile for these tokens; a split context where the tiles leave multiprocessors idle."""
    launch = tile_launch(q.dtype, q.shape[1] // keys.shape[2], plan.decode_only)
    programs = keys.shape[2] * sum(math.ceil(length / launch.queries) for length in plan.query_lengths)
    wanted = 2 * multiprocessor_count(q) // max(1, programs)
    if wanted < 2 or max(plan.context_lengths) < 2 * LEAST_STRETCH:
        return launch
    stretch = max(LEAST_STRETCH, triton.next_power_of_2(math.ceil(max(plan.context_lengths) / wanted)))
    return replace(launch, stretch=stretch)


def tile_launch(dtype: torch.dtype, group: int, decode: bool) -> AttentionLaunch:
    """About 64 rows (tokens times query heads of a kv head) in a tile, 16 for decoding; smaller steps for float32,
    whose products have no tensor cores to keep their operands."""
    if dtype == torch.float32:
        return AttentionLaunch(1 if decode else max(1, 16 // triton.next_power_of_2(group)), keys=32)
    return AttentionLaunch(1 if decode else max(1, 64 // triton.next_power_of_2(group)))
