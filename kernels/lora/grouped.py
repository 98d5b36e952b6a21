"""The grouped CPU strategy: segments of equal ranks and similar length become one batched product, padded to the
longest. Least arithmetic; few calls where adapters have the same rank."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.lora.plan import BatchPlan, Segment
from kernels.lora.weights import LoraWeights


@dataclass(frozen=True, slots=True)
class Bucket:
    """Segments that one batched product serves.

    ranks      rank of each slice, the same for all
    scales     per slice [slots, 1, 1]
    gather     int64 [slots * length]: row of each padded position (padding repeats a row of its segment)
    positions  int64 [real rows]: the padded positions that are not padding
    """

    slots: tuple[int, ...]
    ranks: tuple[int, ...]
    scales: tuple[Tensor, ...]
    gather: Tensor
    positions: Tensor

    @property
    def length(self) -> int:
        return len(self.gather) // len(self.slots)


@dataclass(frozen=True, slots=True)
class Grouping:
    """The buckets of a step for one combination of ranks.

    in_place  one bucket whose positions are the batch's rows in order: nothing to gather or to scatter
    inverse   per slice int64 [tokens]: where in the products of the buckets with that slice, one after another, a
              token's result stands; a token without one points behind them
    """

    buckets: tuple[Bucket, ...]
    in_place: bool
    inverse: tuple[Tensor, ...]


def grouping(weights: LoraWeights, plan: BatchPlan) -> Grouping:
    key = ("grouping", weights.slice_ranks, weights.scales, weights.a.memory.dtype)
    return plan.derive(key, lambda: _make_grouping(weights, plan))


def _make_grouping(weights: LoraWeights, plan: BatchPlan) -> Grouping:
    """Lengths in one bucket differ by less than a factor of two, so less than half of a product is padding."""
    alike: dict[tuple[object, int], list[Segment]] = defaultdict(list)
    for segment in plan.segments:
        ranks = weights.slice_ranks[segment.slot]
        if sum(ranks):
            alike[ranks, (segment.stop - segment.start).bit_length()].append(segment)
    buckets = tuple(_bucket(segments, weights, plan.order) for segments in alike.values())
    in_place = len(buckets) == 1 and buckets[0].gather.tolist() == list(range(plan.tokens))
    inverse = tuple(_inverse(buckets, piece, plan.tokens) for piece in range(len(weights.b)))
    return Grouping(buckets, in_place, inverse)


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
    )


def _inverse(buckets: Sequence[Bucket], piece: int, tokens: int) -> Tensor:
    with_rank = [bucket for bucket in buckets if bucket.ranks[piece]]
    inverse = torch.full((tokens,), sum(len(bucket.gather) for bucket in with_rank))
    first = 0
    for bucket in with_rank:
        inverse[bucket.gather[bucket.positions]] = first + bucket.positions
        first += len(bucket.gather)
    return inverse


def add_grouped(out: Tensor, x: Tensor, weights: LoraWeights, plan: BatchPlan) -> None:
    """out += scale * (x A) B, in place."""
    group = grouping(weights, plan)
    expand_grouped(out, [_shrink(x, weights, bucket, group.in_place) for bucket in group.buckets], weights, group)


def shrink_grouped(x: Tensor, weights: LoraWeights, plan: BatchPlan) -> Tensor:
    """[tokens, max rank]; columns and rows without a rank row are unspecified."""
    group = grouping(weights, plan)
    shrunk = x.new_empty((plan.tokens, weights.a.max_rank))
    for bucket in group.buckets:
        product = _shrink(x, weights, bucket, group.in_place).flatten(0, 1)
        shrunk[bucket.gather[bucket.positions], : product.shape[1]] = product[bucket.positions]
    return shrunk


def split_shrunk(shrunk: Tensor, group: Grouping) -> list[Tensor]:
    """Per bucket [slots, length, rank] of what `shrink_grouped` returned."""
    return [
        shrunk[:, : sum(bucket.ranks)].index_select(0, bucket.gather).unflatten(0, (len(bucket.slots), bucket.length))
        for bucket in group.buckets
    ]


def _shrink(x: Tensor, weights: LoraWeights, bucket: Bucket, in_place: bool) -> Tensor:
    """[slots, length, rank]."""
    rows = x if in_place else x.index_select(0, bucket.gather)
    a = weights.a.stack(bucket.slots)
    return torch.bmm(rows.unflatten(0, (len(bucket.slots), bucket.length)), a.transpose(1, 2))


def expand_grouped(out: Tensor, shrunk: Sequence[Tensor], weights: LoraWeights, group: Grouping) -> None:
    """out += scale * shrunk B, in place; `shrunk` per bucket."""
    column = 0
    for piece, b in enumerate(weights.b):
        region = out[:, column : column + b.width]
        if group.in_place:
            _expand_in_place(region, shrunk[0], weights, group.buckets[0], piece)
        else:
            _expand_and_select(region, shrunk, weights, group, piece)
        column += b.width


def _expand_in_place(region: Tensor, v: Tensor, weights: LoraWeights, bucket: Bucket, piece: int) -> None:
    if bucket.ranks[piece]:
        rows = region.unflatten(0, (len(bucket.slots), bucket.length))
        rows.baddbmm_(_scaled(v, bucket, piece), weights.b[piece].stack(bucket.slots))


def _expand_and_select(
    region: Tensor, shrunk: Sequence[Tensor], weights: LoraWeights, group: Grouping, piece: int
) -> None:
    """Rows are selected from the products, not added one by one to `region`, which is many times slower."""
    pairs = [(bucket, v) for bucket, v in zip(group.buckets, shrunk, strict=True) if bucket.ranks[piece]]
    if not pairs:
        return
    products = region.new_empty((sum(len(bucket.gather) for bucket, _ in pairs) + 1, region.shape[1]))
    products[-1] = 0
    first = 0
    for bucket, v in pairs:
        target = products[first : first + len(bucket.gather)].unflatten(0, (len(bucket.slots), bucket.length))
        torch.bmm(_scaled(v, bucket, piece), weights.b[piece].stack(bucket.slots), out=target)
        first += len(bucket.gather)
    region.add_(products.index_select(0, group.inverse[piece]))


def _scaled(v: Tensor, bucket: Bucket, piece: int) -> Tensor:
    before = sum(bucket.ranks[:piece])
    return v[..., before : before + bucket.ranks[piece]] * bucket.scales[piece]
