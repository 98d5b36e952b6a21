"""What the Triton kernels read about the weights, as small arrays on the device, built once per set of weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.errors import require
from kernels.lora.rows import PagedRows, RankRows

ALIGNMENT = 16  # bytes of one vector load; also the elements that widths, strides and pages are multiples of


@dataclass(frozen=True, slots=True)
class RowTable:
    """The rank rows of some slices.

    slices   int64 [slices, 5]: address, row stride, elements per page, width, first output column; a dense row is
             one page as wide as the row
    index    int32 [slices, slots, 3]: first entry in `pages` (dense: first row), rank, first column in the shrunk
    pages    int32: page numbers of all rank rows of all slices; one entry, unused, when dense
    scales   float32 [slices, slots]
    aligned  rows start on a vector-load boundary, and every width is a multiple of ALIGNMENT elements
    """

    slices: Tensor
    index: Tensor
    pages: Tensor
    scales: Tensor
    paged: bool
    aligned: bool
    column_blocks: tuple[tuple[int, int], ...]  # per slice (pages per row, elements per page), for the grid

    def most_blocks(self, block: int) -> int:
        """The most blocks of `block` elements that a row of any slice is cut into; none straddles two pages."""
        return max(pages * math.ceil(elements / block) for pages, elements in self.column_blocks)


def row_table(rows: Sequence[RankRows], scales: Sequence[Sequence[float]]) -> RowTable:
    paged = isinstance(rows[0], PagedRows)
    require(all(isinstance(part, PagedRows) == paged for part in rows), "slices of one layer are partly paged")
    device = rows[0].memory.device
    page_lists = [_pages(part) for part in rows]
    entry_starts = itertools.accumulate((len(pages) for pages in page_lists[:-1]), initial=0)
    columns = itertools.accumulate((part.width for part in rows[:-1]), initial=0)
    index = _index(rows, list(entry_starts))
    return RowTable(
        slices=torch.tensor([_describe(part, first) for part, first in zip(rows, columns, strict=True)]).to(device),
        index=torch.tensor(index, dtype=torch.int32).view(len(rows), -1, 3).to(device),
        pages=torch.tensor([page for pages in page_lists for page in pages] or [0], dtype=torch.int32).to(device),
        scales=torch.tensor(scales, dtype=torch.float32).to(device),
        paged=paged,
        aligned=all(_aligned(part) for part in rows),
        column_blocks=tuple((math.ceil(part.width / _elements(part)), _elements(part)) for part in rows),
    )


def _elements(rows: RankRows) -> int:
    return rows.pool.shape[1] if isinstance(rows, PagedRows) else rows.width


def _describe(rows: RankRows, first_column: int) -> tuple[int, int, int, int, int]:
    return rows.memory.data_ptr(), rows.memory.stride(0), _elements(rows), rows.width, first_column


def _pages(rows: RankRows) -> list[int]:
    return [page for pages in rows.pages for page in pages] if isinstance(rows, PagedRows) else []


def _index(rows: Sequence[RankRows], entry_starts: Sequence[int]) -> list[list[tuple[int, int, int]]]:
    """Per slice and slot: (first entry, rank, first column in the shrunk)."""
    first_columns = [0] * len(rows[0].ranks)
    index = []
    for part, entries in zip(rows, entry_starts, strict=True):
        starts = _starts(part, entries)
        index.append([(starts[slot], rank, first_columns[slot]) for slot, rank in enumerate(part.ranks)])
        first_columns = [column + rank for column, rank in zip(first_columns, part.ranks, strict=True)]
    return index


def _starts(rows: RankRows, entries: int) -> list[int]:
    if not isinstance(rows, PagedRows):
        return list(rows.starts)
    return list(itertools.accumulate((len(pages) for pages in rows.pages[:-1]), initial=entries))


def _aligned(rows: RankRows) -> bool:
    numbers = (rows.memory.data_ptr(), rows.memory.stride(0), _elements(rows), rows.width)
    return all(number % ALIGNMENT == 0 for number in numbers)
