"""Launching the Triton lora kernels: block sizes, splits, and the measured choice between the two strategies."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import triton
from torch import Tensor

from kernels.choice import MeasuredChoice, Run
from kernels.launch import KernelCall, multiprocessor_count, precision
from kernels.lora.plan import BatchPlan
from kernels.lora.row_table import RowTable
from kernels.lora.triton import expand_rows_kernel, expand_tiles_kernel, shrink_rows_kernel, shrink_tiles_kernel
from kernels.lora.weights import LoraWeights
from kernels.plan import TILE_TOKENS

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
STRATEGIES = {
    "rows": Launch(tile=1, rank=16, inner=512, columns=256),
    "tiles": Launch(tile=16, columns=64),
    "wide tiles": Launch(tile=64, inner=64, columns=64),
}


def strategies(dtype: torch.dtype) -> dict[str, Launch]:
    """Those that fit the registers: full float32 products have no tensor cores to keep their operands."""
    if dtype == torch.float32:
        return {"rows": STRATEGIES["rows"], "tiles": replace(STRATEGIES["tiles"], inner=64)}
    return STRATEGIES


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
    out = x.new_empty((launch.splits, plan.tokens, weights.a.max_rank), dtype=torch.float32)
    shrink_call(launch, out, x, weights, plan).run()
    return out


def expand_with(launch: Launch, out: Tensor, shrunk: Tensor, weights: LoraWeights, plan: BatchPlan) -> None:
    """In place; see `kernels.lora_expand`."""
    expand_call(launch, out, shrunk, weights, plan).run()


def shrink_call(launch: Launch, out: Tensor, x: Tensor, weights: LoraWeights, plan: BatchPlan) -> KernelCall:
    table = weights.table_a
    arguments = {"x": x, "out": out, "slices": table.slices, "index": table.index, "pages": table.pages}
    arguments |= {"x_stride": x.stride(0), "split_stride": out.stride(0), "out_stride": out.stride(1)}
    constants = {**_constants(table), "SPLITS": launch.splits, "BLOCK_R": launch.rank, "BLOCK_K": launch.inner}
    blocks = math.ceil(weights.a.max_rank / launch.rank)
    if launch.tile == 1:
        arguments |= {"token_slots": plan.token_slots, "order": plan.order}
        return KernelCall(shrink_rows_kernel, (len(plan.order), blocks, launch.splits), arguments, constants)
    tiles = plan.tile_table(launch.tile)
    arguments |= {"tiles": tiles, "order": plan.order}
    constants |= {"BLOCK_T": launch.tile, "PRECISION": precision(x.dtype)}
    return KernelCall(shrink_tiles_kernel, (len(tiles), blocks, launch.splits), arguments, constants)


def expand_call(launch: Launch, out: Tensor, shrunk: Tensor, weights: LoraWeights, plan: BatchPlan) -> KernelCall:
    table, slots = weights.table_b, len(weights.a.ranks)
    arguments = {"out": out, "shrunk": shrunk, "slices": table.slices, "index": table.index, "pages": table.pages}
    arguments |= {"scales": table.scales, "slots": slots, "order": plan.order, "out_stride": out.stride(0)}
    arguments |= {"split_stride": shrunk.stride(0), "shrunk_stride": shrunk.stride(1)}
    constants = {**_constants(table), "SPLITS": shrunk.shape[0], "BLOCK_R": launch.rank, "BLOCK_N": launch.columns}
    blocks = table.most_blocks(launch.columns) if weights.a.max_rank else 0
    if launch.tile == 1:
        arguments["token_slots"] = plan.token_slots
        return KernelCall(expand_rows_kernel, (len(plan.order), blocks, len(weights.b)), arguments, constants)
    tiles = plan.tile_table(launch.tile)
    arguments["tiles"] = tiles
    constants |= {"BLOCK_T": launch.tile, "PRECISION": precision(out.dtype)}
    # One stage: ptxas before 13.3 miscompiles a pipelined wgmma whose first operand is converted in registers.
    options = {"num_stages": 1, "num_warps": 4 if launch.tile == TILE_TOKENS else 8}
    return KernelCall(expand_tiles_kernel, (len(tiles), blocks, len(weights.b)), arguments, constants, options)


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
    if not x.is_cuda or torch.cuda.is_current_stream_capturing():
        return _default(x, weights, plan)
    fitting = strategies(x.dtype)
    launches = {name: _split(launch, weights, plan, multiprocessor_count(x)) for name, launch in fitting.items()}
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
    fitting = strategies(x.dtype)
    name = "rows" if average < 4 else "tiles" if average < 64 else list(fitting)[-1]
    return _split(fitting[name], weights, plan, multiprocessor_count(x))


def _split(launch: Launch, weights: LoraWeights, plan: BatchPlan, multiprocessors: int) -> Launch:
    """Rank step and splits for these weights: enough programs to fill the device, at least two steps in each."""
    rank = min(most_rank(launch), max(16, triton.next_power_of_2(weights.a.max_rank)))
    programs = sum(math.ceil((s.stop - s.start) / launch.tile) for s in plan.segments)
    programs *= math.ceil(max(1, weights.a.max_rank) / rank)
    steps = weights.table_a.most_blocks(launch.inner)
    wanted = max(1, min(WAVES * multiprocessors // max(1, programs), steps // 2, MOST_SPLITS))
    return sized(launch, rank, 1 << (wanted.bit_length() - 1))  # powers of two: each number is a kernel to compile


def most_rank(launch: Launch) -> int:
    """The largest rank step that fits the registers of a program."""
    return 64 if launch.tile > TILE_TOKENS else 32


def sized(launch: Launch, rank: int, splits: int) -> Launch:
    """The strategy with this rank step and these splits; a per-row program holds a shorter stretch of more rows."""
    inner = launch.inner * 16 // rank if launch.tile == 1 else launch.inner
    return replace(launch, rank=rank, inner=inner, splits=splits)
