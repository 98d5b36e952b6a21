"""Launching the Triton lora kernels: block sizes, splits, and the measured choice between the two strategies."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import triton
from torch import Tensor

from kernels.choice import MeasuredChoice, Run
from kernels.lora_triton import expand_rows_kernel, expand_tiles_kernel, shrink_rows_kernel, shrink_tiles_kernel
from kernels.plan import TILE_TOKENS, BatchPlan
from kernels.row_table import RowTable
from kernels.weights import LoraWeights

MOST_SPLITS = 16
WAVES = 2  # programs wanted per multiprocessor


@dataclass(frozen=True, slots=True)
class Launch:
    """How the two kernels of one layer run.

    tile     tokens of one program; 1: the per-row kernels
    rank     rank rows per step of a program
    inner    elements of the input width per step of shrink
    columns  output elements of one program of expand
    splits   partial sums of shrink
    """

    tile: int
    rank: int = 16
    inner: int = 128
    columns: int = 128
    splits: int = 1


DETERMINISTIC = Launch(tile=TILE_TOKENS, rank=16, inner=64, columns=64, splits=4)
_STRATEGIES = {
    "rows": Launch(tile=1, rank=16, inner=512, columns=256),
    "tiles": Launch(tile=16, rank=16),
    "wide tiles": Launch(tile=64, rank=16, inner=64, columns=128),
}


def lora_add_cuda(out: Tensor, x: Tensor, weights: LoraWeights, plan: BatchPlan) -> None:
    """out += scale * (x A) B by the fastest strategy for the shape; see `kernels.lora_add`."""
    launch = DETERMINISTIC if plan.deterministic else _fastest(out, x, weights, plan)
    add_with(launch, out, x, weights, plan)


def lora_shrink_cuda(x: Tensor, weights: LoraWeights, plan: BatchPlan) -> Tensor:
    """See `kernels.lora_shrink`."""
    return shrink_with(_default(x, weights, plan), x, weights, plan)


def lora_expand_cuda(out: Tensor, shrunk: Tensor, weights: LoraWeights, plan: BatchPlan) -> None:
    """See `kernels.lora_expand`."""
    expand_with(_default(out, weights, plan), out, shrunk, weights, plan)


def add_with(launch: Launch, out: Tensor, x: Tensor, weights: LoraWeights, plan: BatchPlan) -> None:
    expand_with(launch, out, shrink_with(launch, x, weights, plan), weights, plan)


def shrink_with(launch: Launch, x: Tensor, weights: LoraWeights, plan: BatchPlan) -> Tensor:
    """Returns float32 [splits, tokens, max rank], written only where an adapter's rank rows are."""
    table = weights.table_a
    out = x.new_empty((launch.splits, plan.tokens, weights.a.max_rank), dtype=torch.float32)
    rank_blocks = math.ceil(weights.a.max_rank / launch.rank)
    strides = (x.stride(0), out.stride(0), out.stride(1))
    constants = {**_constants(table), "SPLITS": launch.splits, "BLOCK_R": launch.rank, "BLOCK_K": launch.inner}
    if rank_blocks == 0 or len(plan.order) == 0:
        return out
    if launch.tile == 1:
        shrink_rows_kernel[(len(plan.order), rank_blocks, launch.splits)](
            x, out, table.slices, table.index, table.pages, plan.token_slots, plan.order, *strides, **constants
        )
        return out
    tiles = plan.tile_table(launch.tile)
    constants |= {"BLOCK_T": launch.tile, "PRECISION": precision(x.dtype)}
    shrink_tiles_kernel[(len(tiles), rank_blocks, launch.splits)](
        x, out, table.slices, table.index, table.pages, tiles, plan.order, *strides, **constants
    )
    return out


def expand_with(launch: Launch, out: Tensor, shrunk: Tensor, weights: LoraWeights, plan: BatchPlan) -> None:
    table = weights.table_b
    slots = len(weights.a.ranks)
    blocks = table.most_blocks(launch.columns)
    strides = (out.stride(0), shrunk.stride(0), shrunk.stride(1))
    constants = {**_constants(table), "SPLITS": shrunk.shape[0], "BLOCK_R": launch.rank, "BLOCK_N": launch.columns}
    layout = (table.slices, table.index, table.pages, table.scales)
    if weights.a.max_rank == 0 or len(plan.order) == 0:
        return
    if launch.tile == 1:
        expand_rows_kernel[(len(plan.order), blocks, len(weights.b))](
            out, shrunk, *layout, plan.token_slots, plan.order, slots, *strides, **constants
        )
        return
    tiles = plan.tile_table(launch.tile)
    constants |= {"BLOCK_T": launch.tile, "PRECISION": precision(out.dtype)}
    # One stage: ptxas before 13.3 miscompiles a pipelined wgmma whose first operand is converted in registers.
    expand_tiles_kernel[(len(tiles), blocks, len(weights.b))](
        out, shrunk, *layout, tiles, plan.order, slots, *strides, **constants, num_stages=1
    )


def precision(dtype: torch.dtype) -> str:
    """Full float32 products for float32 weights; the half types have only one way."""
    return "ieee" if dtype == torch.float32 else "tf32"


def _constants(table: RowTable) -> dict[str, object]:
    return {"PAGED": table.paged, "ALIGNED": table.aligned}


# --- the choice ------------------------------------------------------------------------------------------------


def _event_seconds(run: Run) -> float:
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(10):
        run()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / 1e4


_choice = MeasuredChoice(_event_seconds)


def _fastest(out: Tensor, x: Tensor, weights: LoraWeights, plan: BatchPlan) -> Launch:
    if torch.cuda.is_current_stream_capturing():
        return _default(x, weights, plan)
    launches = {name: _split(launch, weights, plan, _multiprocessors(x)) for name, launch in _STRATEGIES.items()}
    scratch = out.clone()
    shape = (x.dtype, weights.in_width, weights.out_width, weights.a.max_rank)
    shape = (*shape, len(plan.order).bit_length(), len(plan.segments).bit_length())
    candidates = {name: _trial(launch, scratch, x, weights, plan) for name, launch in launches.items()}
    return launches[_choice.pick(shape, candidates)]


def _trial(launch: Launch, scratch: Tensor, x: Tensor, weights: LoraWeights, plan: BatchPlan) -> Run:
    return lambda: add_with(launch, scratch, x, weights, plan)


def _default(x: Tensor, weights: LoraWeights, plan: BatchPlan) -> Launch:
    """Without measuring: per row where an adapter has few tokens, wide tiles where it has many."""
    if plan.deterministic:
        return DETERMINISTIC
    average = len(plan.order) / max(1, len(plan.segments))
    name = "rows" if average < 4 else "tiles" if average < 64 else "wide tiles"
    return _split(_STRATEGIES[name], weights, plan, _multiprocessors(x))


def _multiprocessors(x: Tensor) -> int:
    return torch.cuda.get_device_properties(x.device).multi_processor_count


def _split(launch: Launch, weights: LoraWeights, plan: BatchPlan, multiprocessors: int) -> Launch:
    """Rank step and splits for these weights: enough programs to fill the device, at least two steps in each."""
    rank = min(64, max(16, triton.next_power_of_2(weights.a.max_rank)))
    programs = sum(math.ceil((s.stop - s.start) / launch.tile) for s in plan.segments)
    programs *= math.ceil(max(1, weights.a.max_rank) / rank)
    steps = weights.table_a.most_blocks(launch.inner)
    wanted = math.ceil(WAVES * multiprocessors / max(1, programs))
    return replace(launch, rank=rank, splits=max(1, min(wanted, steps // 2, MOST_SPLITS)))
