"""The deterministic CPU strategy: products of fixed shape, TILE_TOKENS rows of one adapter, padded with zeros."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import pad

from kernels.lora.plan import BatchPlan, Segment
from kernels.lora.weights import LoraWeights
from kernels.plan import TILE_TOKENS


def add_tiles(out: Tensor, x: Tensor, weights: LoraWeights, plan: BatchPlan) -> None:
    """out += scale * (x A) B, in place."""
    for tile in plan.tiles:
        _expand_tile(out, _shrink_tile(x, weights, plan, tile), weights, plan, tile)


def shrink_tiles(x: Tensor, weights: LoraWeights, plan: BatchPlan) -> Tensor:
    """[tokens, max rank]; columns and rows without a rank row are unspecified."""
    shrunk = x.new_empty((plan.tokens, weights.a.max_rank))
    for tile in plan.tiles:
        rows = plan.order[tile.start : tile.stop]
        shrunk[rows, : weights.a.ranks[tile.slot]] = _shrink_tile(x, weights, plan, tile)[: len(rows)]
    return shrunk


def expand_tiles(out: Tensor, shrunk: Tensor, weights: LoraWeights, plan: BatchPlan) -> None:
    """out += scale * shrunk B, in place."""
    for tile in plan.tiles:
        v = _tile_rows(shrunk, plan, tile)[:, : weights.a.ranks[tile.slot]]
        _expand_tile(out, v, weights, plan, tile)


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
