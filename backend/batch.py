"""One forward pass as tensors: which tokens, at which positions, and what each of them may look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from backend.config import PAGE
from backend.lora import AdapterPack, BatchLora
from backend.pages import SCRATCH, PageAllocator
from backend.peft_format import Adapter
from backend.spec import ModelSpec


class Run(NamedTuple):
    """Consecutive tokens of one request: the first stands at position `start`, their pages are `pages`."""

    tokens: Sequence[int]
    start: int
    pages: Sequence[int]
    adapter: Adapter | None = None

    def table(self) -> list[int]:
        """The pages that hold this request's tokens up to the end of the run."""
        return list(self.pages[: PageAllocator.needed(self.start + len(self.tokens))])

    def slots(self) -> list[int]:
        positions = range(self.start, self.start + len(self.tokens))
        return [self.pages[position // PAGE] * PAGE + position % PAGE for position in positions]


class Segment(NamedTuple):
    """Rows whose attention is computed in one call: `queries` rows of each of some requests.

    `tables` [requests, pages]; `masks` by window: what is added to the scores,
    [requests, 1, queries * group, pages * PAGE], where group = heads / kv_heads.
    """

    rows: slice
    queries: int
    tables: Tensor
    masks: dict[int | None, Tensor]


@dataclass(frozen=True, slots=True)
class Batch:
    """`tokens`, `positions` and `slots` [rows]; logits are wanted of `last_rows`, one row for each run, in order."""

    tokens: Tensor
    positions: Tensor
    slots: Tensor
    segments: list[Segment]
    last_rows: Tensor
    lora: BatchLora


class Batcher:
    """Builds batches for one model."""

    def __init__(self, spec: ModelSpec, dtype: torch.dtype) -> None:
        self._group = spec.heads // spec.kv_heads
        self._windows = {layer.window for layer in spec.layers}
        self._dtype = dtype

    def mixed(self, runs: Sequence[Run], pack: AdapterPack) -> Batch:
        """All of `runs` in one batch: neighbours of a single token share one attention call, others have their own."""
        groups: list[list[Run]] = []
        for run in runs:
            if groups and len(run.tokens) == len(groups[-1][0].tokens) == 1:
                groups[-1].append(run)
            else:
                groups.append([run])
        adapters = [run.adapter for run in runs for _ in run.tokens]
        return self._build(runs, groups, len(adapters), BatchLora(pack, adapters))

    def fixed(self, runs: Sequence[Run], pack: AdapterPack, rows: int) -> Batch:
        """`runs` padded to exactly `rows` rows, attention one request at a time: the arithmetic of a row is that of
        the same shapes whatever else is in the batch (the deterministic mode)."""
        ends = list(accumulate(len(run.tokens) for run in runs))
        adapters = [run.adapter for run in runs for _ in run.tokens]
        adapters += [None] * (rows - len(adapters))
        return self._build(runs, [[run] for run in runs], rows, BatchLora(pack, adapters, cuts=ends))

    def _build(self, runs: Sequence[Run], groups: Sequence[Sequence[Run]], rows: int, lora: BatchLora) -> Batch:
        tokens, positions, slots, last = [], [], [], []
        for run in runs:
            tokens += run.tokens
            positions += range(run.start, run.start + len(run.tokens))
            slots += run.slots()
            last.append(len(tokens) - 1)
        padding = rows - len(tokens)
        return Batch(
            torch.tensor(tokens + [0] * padding),
            torch.tensor(positions + [0] * padding),
            torch.tensor(slots + [SCRATCH] * padding),
            self._segments(groups),
            torch.tensor(last),
            lora,
        )

    def _segments(self, groups: Sequence[Sequence[Run]]) -> list[Segment]:
        segments, row = [], 0
        for group in groups:
            end = row + sum(len(run.tokens) for run in group)
            segments.append(self._segment(slice(row, end), group))
            row = end
        return segments

    def _segment(self, rows: slice, runs: Sequence[Run]) -> Segment:
        queries = len(runs[0].tokens)
        tables = [run.table() for run in runs]
        width = max(len(table) for table in tables)
        padded = torch.tensor([table + [SCRATCH] * (width - len(table)) for table in tables])
        starts = torch.tensor([run.start for run in runs])
        return Segment(rows, queries, padded, self._masks(starts, queries, width * PAGE))

    def _masks(self, starts: Tensor, queries: int, keys: int) -> dict[int | None, Tensor]:
        at = (starts[:, None] + torch.arange(queries))[:, :, None]
        behind = at - torch.arange(keys)  # how far a key lies behind a query
        return {window: self._mask(behind, window) for window in self._windows}

    def _mask(self, behind: Tensor, window: int | None) -> Tensor:
        hidden = behind < 0 if window is None else (behind < 0) | (behind >= window)
        scores = torch.zeros(hidden.shape, dtype=self._dtype).masked_fill_(hidden, float("-inf"))
        return scores.repeat_interleave(self._group, dim=1)[:, None]
