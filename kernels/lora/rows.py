"""Where LoRA weights lie: as rank rows, packed densely or spread over the pages of a unified pool.

A rank row is one row of A (width = the layer's input) or one column of B (width = the layer's output), so that
both halves of a rank-r adapter are r rows and ragged ranks need no padding (S-LoRA, MLSys'24, section 5.1).
Fused slices that share their input (q/k/v, gate/up) put their A rows one after another under one adapter, and
keep one B per slice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kernels.errors import require


@dataclass(frozen=True)
class DenseRows:
    """Adapter s owns storage[starts[s] : starts[s] + ranks[s]]; storage is [rows, width], rows contiguous.

    Every row that an adapter owns must be finite: one product may cover several adapters and drop the rest after.
    """

    storage: Tensor
    starts: tuple[int, ...]
    ranks: tuple[int, ...]

    def __post_init__(self) -> None:
        require(self.storage.dim() == 2, f"storage has {self.storage.dim()} dimensions; expected [rows, width]")
        require(self.storage.stride(1) == 1 or self.storage.shape[1] == 1, "storage rows are not contiguous")
        require(len(self.starts) == len(self.ranks), f"{len(self.starts)} starts for {len(self.ranks)} ranks")
        for slot, (start, rank) in enumerate(zip(self.starts, self.ranks, strict=True)):
            inside = rank >= 0 and start >= 0 and start + rank <= self.storage.shape[0]
            require(inside, f"slot {slot}: rows {start}..{start + rank} lie outside storage {list(self.storage.shape)}")

    @property
    def width(self) -> int:
        return self.storage.shape[1]

    @property
    def memory(self) -> Tensor:
        return self.storage

    def adapter(self, slot: int) -> Tensor:
        """[rank, width], a view."""
        start = self.starts[slot]
        return self.storage[start : start + self.ranks[slot]]

    def stack(self, slots: Sequence[int]) -> Tensor:
        """[slots, rank, width] of adapters of equal rank: a view where they lie evenly spaced, otherwise a copy."""
        first, step = self.starts[slots[0]], self.starts[slots[-1]] - self.starts[slots[0]]
        step = step // (len(slots) - 1) if len(slots) > 1 else 0
        if any(self.starts[slot] != first + i * step for i, slot in enumerate(slots)) or step < 0:
            return torch.stack([self.adapter(slot) for slot in slots])
        row = self.storage.stride(0)
        shape = (len(slots), self.ranks[slots[0]], self.width)
        return self.storage.as_strided(shape, (step * row, row, 1), self.storage.storage_offset() + first * row)

    def run(self, slots: range) -> Tensor | None:
        """[rows, width] of all these adapters one after another, a view; None where other rows lie between them."""
        start = self.starts[slots[0]]
        expected = start
        for slot in slots:
            if self.starts[slot] != expected:
                return None
            expected += self.ranks[slot]
        return self.storage[start:expected]

    @cached_property
    def max_rank(self) -> int:
        return max(self.ranks, default=0)


@dataclass(frozen=True)
class PagedRows:
    """Rank rows in pages of a fixed number of elements.

    pool    [pages, elements], rows contiguous; may be a strided view (one layer of a [layers, pages, elements] pool)
    pages   per adapter the page numbers of its rank rows, in order; a row takes ceil(width / elements) of them
    width   elements of a row that count; the rest of its last page is never read
    """

    pool: Tensor
    pages: tuple[tuple[int, ...], ...]
    width: int

    def __post_init__(self) -> None:
        require(
            self.pool.dim() == 2 and self.pool.stride(1) == 1, "pool is not [pages, elements] with contiguous pages"
        )
        require(self.width > 0, f"width is {self.width}; expected at least 1")
        for slot, pages in enumerate(self.pages):
            whole = len(pages) % self.pages_per_row == 0
            require(
                whole, f"slot {slot}: {len(pages)} pages; expected a multiple of {self.pages_per_row} for one row each"
            )
            inside = all(0 <= page < self.pool.shape[0] for page in pages)
            require(inside, f"slot {slot}: a page number lies outside the pool of {self.pool.shape[0]} pages")

    @property
    def memory(self) -> Tensor:
        return self.pool

    @property
    def pages_per_row(self) -> int:
        return math.ceil(self.width / self.pool.shape[1])

    @cached_property
    def ranks(self) -> tuple[int, ...]:
        return tuple(len(pages) // self.pages_per_row for pages in self.pages)

    @cached_property
    def max_rank(self) -> int:
        return max(self.ranks, default=0)

    def adapter(self, slot: int) -> Tensor:
        """[rank, width], gathered."""
        return self.stack([slot])[0]

    def stack(self, slots: Sequence[int]) -> Tensor:
        """[slots, rank, width] of adapters of equal rank, gathered."""
        flat = [page for slot in slots for page in self.pages[slot]]
        index = torch.tensor(flat, dtype=torch.int64, device=self.pool.device)
        elements = self.pages_per_row * self.pool.shape[1]
        rows = self.pool.index_select(0, index).view(len(slots), self.ranks[slots[0]], elements)
        return rows[..., : self.width]

    def run(self, slots: range) -> Tensor | None:
        """Pages lie anywhere: there is never a run of rows."""
        return None


RankRows = DenseRows | PagedRows


def pack_rows(
    adapters: Sequence[Tensor | None], width: int, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> DenseRows:
    """Copies the adapters' rank rows [r, width] one after another; None is an adapter that has no such module.

    Raises KernelError for another shape, or for weights that are not finite: 0 * inf would reach other rows.
    """
    ranks = tuple(0 if rows is None else rows.shape[0] for rows in adapters)
    starts = tuple(sum(ranks[:slot]) for slot in range(len(ranks)))
    storage = torch.empty((sum(ranks), width), dtype=dtype, device=device)
    for slot, rows in enumerate(adapters):
        if rows is None:
            continue
        require(
            rows.dim() == 2 and rows.shape[1] == width, f"slot {slot}: shape {list(rows.shape)}; expected [r, {width}]"
        )
        require(bool(rows.isfinite().all()), f"slot {slot}: the weights hold infinities or NaN")
        storage[starts[slot] : starts[slot] + ranks[slot]] = rows.to(dtype)
    return DenseRows(storage, starts, ranks)
