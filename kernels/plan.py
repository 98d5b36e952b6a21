"""The batch plan: which token uses which adapter, grouped once per step and shared by all layers of the step.

Grouping follows Punica's segments (MLSys'24, section 4: SGMV) but takes tokens in any order: `order` lists the
tokens with an adapter, sorted by adapter, and a segment is a run of it. Tokens without an adapter are in no
segment, so they cost nothing. The plan is built from host lists, which is where a scheduler has them, and goes
to the device as one array in one copy: no device-to-host synchronisation.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

import torch
from torch import Tensor

from kernels.errors import require

NO_ADAPTER = -1
T = TypeVar("T")

TILE_TOKENS = 16  # the smallest row count of a tensor-core product; also the fixed tile of the deterministic mode


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens order[start:stop] use the adapter in slot `slot`."""

    slot: int
    start: int
    stop: int


@dataclass(frozen=True)
class BatchPlan:
    """Build it with `plan_batch`; hand it to every lora op of the step.

    tokens         rows of the step's activations
    segments       host copy of the grouping, by ascending slot; `order` sorts stably
    tiles          the segments cut into pieces of at most TILE_TOKENS tokens
    deterministic  a row's result then depends on that row and its adapter alone, bit for bit
    order          int64 [tokens with an adapter]: row numbers sorted by adapter
    token_slots    int32 [tokens]: slot per token, NO_ADAPTER where there is none
    device_tiles   int32 [tiles, 3]: (slot, start, stop) into `order`
    """

    tokens: int
    segments: tuple[Segment, ...]
    tiles: tuple[Segment, ...]
    deterministic: bool
    order: Tensor
    token_slots: Tensor
    device_tiles: Tensor
    _derived: dict[Hashable, object] = field(default_factory=dict, repr=False, compare=False)

    @property
    def device(self) -> torch.device:
        return self.order.device

    def derive(self, key: Hashable, build: Callable[[], T]) -> T:
        """What `build` returns, built once per plan and key: layers whose ranks agree share their layout."""
        if key not in self._derived:
            self._derived[key] = build()
        return cast(T, self._derived[key])


def plan_batch(
    token_slots: Sequence[int], *, device: torch.device | str = "cpu", deterministic: bool = False
) -> BatchPlan:
    """Groups the tokens of a step by adapter.

    token_slots    adapter slot of each token, in batch order; NO_ADAPTER (-1) for none
    deterministic  ask for results that do not depend on who shares the batch

    Raises KernelError for a slot below -1.
    """
    slots = list(token_slots)
    for row, slot in enumerate(slots):
        require(slot >= NO_ADAPTER, f"token_slots[{row}] is {slot}; expected a slot of at least 0, or -1 for none")
    order = sorted((row for row, slot in enumerate(slots) if slot != NO_ADAPTER), key=slots.__getitem__)
    segments = _segments([slots[row] for row in order])
    return _on_device(slots, order, segments, torch.device(device), deterministic)


def _segments(sorted_slots: list[int]) -> tuple[Segment, ...]:
    starts = [i for i, slot in enumerate(sorted_slots) if i == 0 or sorted_slots[i - 1] != slot]
    stops = [*starts[1:], len(sorted_slots)]
    return tuple(Segment(sorted_slots[start], start, stop) for start, stop in zip(starts, stops, strict=False))


def _tiles(segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
    return tuple(
        Segment(segment.slot, start, min(start + TILE_TOKENS, segment.stop))
        for segment in segments
        for start in range(segment.start, segment.stop, TILE_TOKENS)
    )


def _on_device(
    slots: list[int], order: list[int], segments: tuple[Segment, ...], device: torch.device, deterministic: bool
) -> BatchPlan:
    tiles = _tiles(segments)
    tile_numbers = [number for tile in tiles for number in (tile.slot, tile.start, tile.stop)]
    host = torch.tensor([*order, *slots, *tile_numbers], dtype=torch.int32)
    if device.type == "cuda":
        host = host.pin_memory()
    packed = host.to(device, non_blocking=True)
    order_part, slots_part, tiles_part = packed.split([len(order), len(slots), len(tile_numbers)])
    return BatchPlan(
        tokens=len(slots),
        segments=segments,
        tiles=tiles,
        deterministic=deterministic,
        order=order_part.long(),
        token_slots=slots_part,
        device_tiles=tiles_part.view(-1, 3),
    )
