"""Shrink and expand on a CPU, where a torch call costs as much as a small product: few, large products.

grouped    segments of equal rank and similar length become one batched product (padded to the longest)
masked     one product with all rank rows between the first and the last adapter of the batch, after which each
           token keeps its own adapter's columns: most arithmetic, fewest calls; needs packed rows
tiles      one product of fixed shape per TILE_TOKENS tokens: the deterministic mode
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from kernels.choice import MeasuredChoice, wall_seconds
from kernels.plan import TILE_TOKENS, BatchPlan, Segment
from kernels.rows import RankRows
from kernels.weights import LoraWeights

MASKED_ROWS_AT_MOST = 4  # times the rank rows in use: beyond it the masked product is not worth measuring

_choice = MeasuredChoice(wall_seconds)


@dataclass(frozen=True, slots=True)
class Bucket:
    """Segments that one batched product serves.

    ranks       rank of each slice, the same for all
    scales      per slice [slots, 1, 1]
    gather      int64 [slots * length]: row of each padded position (padding repeats a row of its segment)
    positions   int64 [real rows]: the padded positions that are not padding
    rows        int64 [real rows]: their rows
    """

    slots: tuple[int, ...]
    ranks: tuple[int, ...]
    scales: tuple[Tensor, ...]
    gather: Tensor
    positions: Tensor
    rows: Tensor

    @property
    def padded(self) -> bool:
        return len(self.gather) != len(self.rows)


def lora_add_cpu(out: Tensor, x: Tensor, weights: LoraWeights, plan: BatchPlan) -> None:
    """out += scale * (x A) B by the fastest strategy for the shape; see `kernels.lora_add`."""
    if plan.deterministic:
        _add_tiles(out, x, weights, plan)
    elif _masked_applies(weights, plan) and _fastest(out, x, weights, plan) == "masked":
        _add_masked(out, x, weights, plan)
    else:
        _add_grouped(out, x, weights, plan)


def lora_shrink_cpu(x: Tensor, weights: LoraWeights, plan: BatchPlan) -> Tensor:
    """[1, tokens, max rank] in x's dtype; see `kernels.lora_shrink`."""
    shrunk = x.new_empty((1, plan.tokens, weights.a.max_rank))
    if plan.deterministic:
        for tile in plan.tiles:
            rank = weights.a.ranks[tile.slot]
            rows = plan.order[tile.start : tile.stop]
            shrunk[0, rows, :rank] = _shrink_tile(x, weights, plan, tile)[: len(rows)]
        return shrunk
    for bucket in _buckets(weights, plan):
        product = _shrink_bucket(x, weights, bucket).flatten(0, 1)
        shrunk[0, bucket.rows, : product.shape[1]] = product[bucket.positions]
    return shrunk


def lora_expand_cpu(out: Tensor, shrunk: Tensor, weights: LoraWeights, plan: BatchPlan) -> None:
    """In place; see `kernels.lora_expand`."""
    total = shrunk[0]
    if plan.deterministic:
        for tile in plan.tiles:
            v = _tile_rows(total, plan, tile)[:, : weights.a.ranks[tile.slot]]
            _expand_tile(out, v, weights, plan, tile)
        return
    for bucket in _buckets(weights, plan):
        v = total.index_select(0, bucket.gather)[:, : sum(bucket.ranks)].view(len(bucket.slots), -1, sum(bucket.ranks))
        _expand_bucket(out, v, weights, bucket)


def _fastest(out: Tensor, x: Tensor, weights: LoraWeights, plan: BatchPlan) -> str:
    buckets = len(_buckets(weights, plan))
    rows = sum(weights.a.ranks[segment.slot] for segment in plan.segments)
    shape = (x.dtype, weights.in_width, weights.out_width, plan.tokens.bit_length(), rows.bit_length(), buckets)
    scratch = out.clone()
    candidates = {
        "grouped": lambda: _add_grouped(scratch, x, weights, plan),
        "masked": lambda: _add_masked(scratch, x, weights, plan),
    }
    return _choice.pick(shape, candidates)


# --- grouped -------------------------------------------------------------------------------------------------


def _buckets(weights: LoraWeights, plan: BatchPlan) -> list[Bucket]:
    key = ("buckets", weights.slice_ranks, weights.scales, weights.a.memory.dtype)
    return plan.derive(key, lambda: _make_buckets(weights, plan))


def _make_buckets(weights: LoraWeights, plan: BatchPlan) -> list[Bucket]:
    """Lengths in one bucket differ by less than a factor of two, so less than half of a product is padding."""
    alike: dict[tuple[object, int], list[Segment]] = defaultdict(list)
    for segment in plan.segments:
        ranks = weights.slice_ranks[segment.slot]
        if sum(ranks):
            alike[ranks, (segment.stop - segment.start).bit_length()].append(segment)
    return [_bucket(segments, weights, plan.order) for segments in alike.values()]


def _bucket(segments: list[Segment], weights: LoraWeights, order: Tensor) -> Bucket:
    longest = max(segment.stop - segment.start for segment in segments)
    inside = [torch.arange(segment.start, segment.stop) for segment in segments]
    padded = [torch.cat([real, real[:1].expand(longest - len(real))]) for real in inside]
    positions = [i * longest + torch.arange(len(real)) for i, real in enumerate(inside)]
    slots = tuple(segment.slot for segment in segments)
    dtype = weights.a.memory.dtype
    return Bucket(
        slots=slots,
        ranks=weights.slice_ranks[slots[0]],
        scales=tuple(torch.tensor([row[s] for s in slots], dtype=dtype).view(-1, 1, 1) for row in weights.scales),
        gather=order[torch.cat(padded)],
        positions=torch.cat(positions),
        rows=order[torch.cat(inside)],
    )


def _add_grouped(out: Tensor, x: Tensor, weights: LoraWeights, plan: BatchPlan) -> None:
    for bucket in _buckets(weights, plan):
        _expand_bucket(out, _shrink_bucket(x, weights, bucket), weights, bucket)


def _shrink_bucket(x: Tensor, weights: LoraWeights, bucket: Bucket) -> Tensor:
    """[slots, length, rank]."""
    a = weights.a.stack(bucket.slots)
    rows = x.index_select(0, bucket.gather).view(len(bucket.slots), -1, weights.in_width)
    return torch.bmm(rows, a.transpose(1, 2))


def _expand_bucket(out: Tensor, v: Tensor, weights: LoraWeights, bucket: Bucket) -> None:
    column, rank_row = 0, 0
    for b, scale, rank in zip(weights.b, bucket.scales, bucket.ranks, strict=True):
        if rank:
            part = torch.bmm(v[..., rank_row : rank_row + rank] * scale, b.stack(bucket.slots)).flatten(0, 1)
            part = part.index_select(0, bucket.positions) if bucket.padded else part
            out[:, column : column + b.width].index_add_(0, bucket.rows, part)
        column, rank_row = column + b.width, rank_row + rank


# --- masked --------------------------------------------------------------------------------------------------


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


def _masked_applies(weights: LoraWeights, plan: BatchPlan) -> bool:
    used = sum(weights.a.ranks[segment.slot] for segment in plan.segments)
    few = 0 < sum(weights.a.ranks[slot] for slot in _span(plan)) <= MASKED_ROWS_AT_MOST * used
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


def _add_masked(out: Tensor, x: Tensor, weights: LoraWeights, plan: BatchPlan) -> None:
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
    assert run is not None, "_masked_applies has looked"
    return run


# --- tiles of fixed shape --------------------------------------------------------------------------------------


def _add_tiles(out: Tensor, x: Tensor, weights: LoraWeights, plan: BatchPlan) -> None:
    for tile in plan.tiles:
        _expand_tile(out, _shrink_tile(x, weights, plan, tile), weights, plan, tile)


def _tile_rows(rows: Tensor, plan: BatchPlan, tile: Segment) -> Tensor:
    """[TILE_TOKENS, width], zeros below the tile's tokens."""
    taken = rows.index_select(0, plan.order[tile.start : tile.stop])
    return pad(taken, (0, 0, 0, TILE_TOKENS - taken.shape[0]))


def _shrink_tile(x: Tensor, weights: LoraWeights, plan: BatchPlan, tile: Segment) -> Tensor:
    return _tile_rows(x, plan, tile) @ weights.a.adapter(tile.slot).T


def _expand_tile(out: Tensor, v: Tensor, weights: LoraWeights, plan: BatchPlan, tile: Segment) -> None:
    rows = plan.order[tile.start : tile.stop]
    column, rank_row = 0, 0
    for b, scales in zip(weights.b, weights.scales, strict=True):
        rank = b.ranks[tile.slot]
        if rank:
            part = (v[:, rank_row : rank_row + rank] * scales[tile.slot]) @ b.adapter(tile.slot)
            out[:, column : column + b.width].index_add_(0, rows, part[: len(rows)])
        column, rank_row = column + b.width, rank_row + rank
