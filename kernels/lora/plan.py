"""The batch plan: which token uses which adapter, grouped once per step and shared by all layers of the step.

Grouping follows Punica's segments (MLSys'24, section 4: SGMV) but takes tokens in any order: `order` lists the
tokens with an adapter, sorted by adapter, and a segment is a run of it. Tokens without an adapter are in no
segment, so they cost nothing. The plan is built from host lists, which is where a scheduler has them, and goes
to the device as one array in one copy: no device-to-host synchronisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kernels.errors import require
from kernels.plan import TILE_TOKENS, StepPlan, to_device

NO_ADAPTER = -1


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens order[start:stop] use the adapter in slot `slot`."""

    slot: int
    start: int
    stop: int


@dataclass(frozen=True)
class BatchPlan(StepPlan):
    """Build it with `plan_batch`; hand it to every lora op of the step.

    tokens         rows of the step's activations
    segments       host copy of the grouping, by ascending slot; `order` sorts stably
    deterministic  a row's result then depends on that row and its adapter alone, bit for bit
    order          int64 [tokens with an adapter]: row numbers sorted by adapter
    token_slots    int32 [tokens]: slot per token, NO_ADAPTER where there is none
    """

    tokens: int
    segments: tuple[Segment, ...]
    deterministic: bool
    order: Tensor
    token_slots: Tensor

    @cached_property
    def tiles(self) -> tuple[Segment, ...]:
        """The segments cut into pieces of at most TILE_TOKENS tokens."""
        return self._cut(TILE_TOKENS)

    def tile_table(self, length: int) -> Tensor:
        """int32 [tiles, 3] on the device: (slot, start, stop) of the segments cut to at most `length` tokens."""
        return self.derive(("tile_table", length), lambda: self._upload(self._cut(length)))

    def _cut(self, length: int) -> tuple[Segment, ...]:
        return tuple(
            Segment(segment.slot, start, min(start + length, segment.stop))
            for segment in self.segments
            for start in range(segment.start, segment.stop, length)
        )

    def _upload(self, tiles: tuple[Segment, ...]) -> Tensor:
        numbers = [(tile.slot, tile.start, tile.stop) for tile in tiles]
        return to_device(torch.tensor(numbers, dtype=torch.int32).view(-1, 3), self.device)

    @property
    def device(self) -> torch.device:
        return self.order.device


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


def _on_device(
    slots: list[int], order: list[int], segments: tuple[Segment, ...], device: torch.device, deterministic: bool
) -> BatchPlan:
    packed = to_device(torch.tensor([*order, *slots], dtype=torch.int32), device)
    order_part, slots_part = packed.split([len(order), len(slots)])
    return BatchPlan(
        tokens=len(slots),
        segments=segments,
        deterministic=deterministic,
        order=order_part.long(),
        token_slots=slots_part,
    )
