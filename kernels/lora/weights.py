"""The LoRA weights of one layer, for all adapter slots, as the ops take them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from kernels.errors import require
from kernels.lora.row_table import RowTable, row_table
from kernels.lora.rows import RankRows


@dataclass(frozen=True)
class LoraWeights:
    """All adapters' LoRA of one linear layer, or of fused slices that share their input.

    a       width = input; an adapter's rows are those of slice 0, then slice 1, ...
    b       per slice, width = that slice's output
    scales  per slice and slot the factor on X A B (alpha / r, alpha / sqrt(r), or a module's own pattern)
    """

    a: RankRows
    b: tuple[RankRows, ...]
    scales: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        slots = len(self.a.ranks)
        require(len(self.scales) == len(self.b), f"{len(self.scales)} rows of scales for {len(self.b)} slices")
        for i, (b, scales) in enumerate(zip(self.b, self.scales, strict=True)):
            same = len(b.ranks) == slots == len(scales)
            require(same, f"slice {i}: {len(b.ranks)} slots in b, {len(scales)} scales; expected {slots} as in a")
        for slot, rank in enumerate(self.a.ranks):
            parts = [b.ranks[slot] for b in self.b]
            require(sum(parts) == rank, f"slot {slot}: a has {rank} rank rows, the slices of b have {parts}")

    @property
    def in_width(self) -> int:
        return self.a.width

    @cached_property
    def slice_ranks(self) -> tuple[tuple[int, ...], ...]:
        """Per slot the rank of each slice."""
        return tuple(zip(*(b.ranks for b in self.b), strict=True))

    @cached_property
    def out_width(self) -> int:
        return sum(b.width for b in self.b)

    @cached_property
    def table_a(self) -> RowTable:
        return row_table((self.a,), (tuple(1.0 for _ in self.a.ranks),))

    @cached_property
    def table_b(self) -> RowTable:
        return row_table(self.b, self.scales)
