"""Which query attends to which pages: built once per step, shared by all layers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kernels.errors import require
from kernels.plan import StepPlan, to_device


@dataclass(frozen=True)
class AttentionPlan(StepPlan):
    """Build it with `plan_attention`.

    query_lengths    per sequence the new tokens in this step; the batch holds them one sequence after another
    context_lengths  per sequence all keys, the new tokens' included
    deterministic    a token's result then depends on its own sequence up to that token alone, bit for bit
    page_table       int32 [sequences, most pages]: page numbers in order, unused entries 0
    new_slots        int64 [tokens]: page * page_tokens + offset where each new token's key and value go
    """

    page_tokens: int
    query_lengths: tuple[int, ...]
    context_lengths: tuple[int, ...]
    deterministic: bool
    page_table: Tensor
    new_slots: Tensor

    @cached_property
    def first_rows(self) -> tuple[int, ...]:
        """Per sequence its first row in the batch."""
        return tuple(itertools.accumulate(self.query_lengths, initial=0))[:-1]

    def tile_table(self, queries: int) -> Tensor:
        """int32 [tiles, 4] on the device: (sequence, first row, its position, rows), at most `queries` rows each."""
        return self.derive(("tile_table", queries), lambda: self._make_tiles(queries))

    def _make_tiles(self, queries: int) -> Tensor:
        lengths = zip(self.first_rows, self.query_lengths, self.context_lengths, strict=True)
        tiles = [
            (sequence, first + start, context - new + start, min(queries, new - start))
            for sequence, (first, new, context) in enumerate(lengths)
            for start in range(0, new, queries)
        ]
        return to_device(torch.tensor(tiles, dtype=torch.int32).view(-1, 4), self.page_table.device)

    @property
    def tokens(self) -> int:
        return sum(self.query_lengths)

    @property
    def decode_only(self) -> bool:
        return all(length == 1 for length in self.query_lengths)


def plan_attention(
    page_tables: Sequence[Sequence[int]],
    query_lengths: Sequence[int],
    context_lengths: Sequence[int],
    page_tokens: int,
    *,
    device: torch.device | str = "cpu",
    deterministic: bool = False,
) -> AttentionPlan:
    """A plan for sequences whose keys and values lie in the pages `page_tables[i]`, `page_tokens` tokens each.

    Raises KernelError where a sequence has too few pages or no new token, or more new tokens than context.
    """
    for i, (pages, new, context) in enumerate(zip(page_tables, query_lengths, context_lengths, strict=True)):
        require(
            0 < new <= context, f"sequence {i}: {new} new tokens in a context of {context}; expected 1 to {context}"
        )
        room = len(pages) * page_tokens
        require(context <= room, f"sequence {i}: a context of {context} in {len(pages)} pages of {page_tokens} tokens")
    most = max((len(pages) for pages in page_tables), default=0)
    table = [[*pages, *[0] * (most - len(pages))] for pages in page_tables]
    new_slots = [
        pages[position // page_tokens] * page_tokens + position % page_tokens
        for pages, new, context in zip(page_tables, query_lengths, context_lengths, strict=True)
        for position in range(context - new, context)
    ]
    return AttentionPlan(
        page_tokens=page_tokens,
        query_lengths=tuple(query_lengths),
        context_lengths=tuple(context_lengths),
        deterministic=deterministic,
        page_table=to_device(torch.tensor(table, dtype=torch.int32).view(len(table), most), torch.device(device)),
        new_slots=to_device(torch.tensor(new_slots, dtype=torch.int64), torch.device(device)),
    )
