"""One forward pass: which tokens, at which positions, in which pages, and with which adapters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from backend.config import PAGE
from backend.lora import AdapterPack, BatchLora
from backend.pages import PageAllocator
from backend.peft_format import Adapter
from kernels import AttentionPlan, plan_attention


class Run(NamedTuple):
    """Consecutive tokens of one request: the first stands at position `start`, their pages are `pages`."""

    tokens: Sequence[int]
    start: int
    pages: Sequence[int]
    adapter: Adapter | None = None

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)


class Attended(NamedTuple):
    """Rows whose attention is computed in one call."""

    rows: slice
    plan: AttentionPlan


@dataclass(frozen=True, slots=True)
class Batch:
    """`tokens` and `positions` [rows]; logits are computed of `last_rows`: the last row of each of the `runs` runs,
    in order, then padding. Rows in no part of `attention` are padding."""

    tokens: Tensor
    positions: Tensor
    attention: tuple[Attended, ...]
    last_rows: Tensor
    runs: int
    lora: BatchLora

    @classmethod
    def mixed(cls, runs: Sequence[Run], pack: AdapterPack) -> Batch:
        """All of `runs`, in as few and large operations as possible."""
        rows = sum(len(run.tokens) for run in runs)
        attended = Attended(slice(0, rows), _plan(runs))
        return cls._build(runs, rows, len(runs), (attended,), BatchLora(pack, _adapters(runs, rows)))

    @classmethod
    def fixed(cls, runs: Sequence[Run], pack: AdapterPack, rows: int, last_rows: int) -> Batch:
        """`runs` padded to exactly `rows` rows, and `last_rows` of logits; attention one run at a time: the
        arithmetic of a row has the same shapes whatever else is in the batch (the deterministic mode)."""
        attended = tuple(Attended(at, _plan([run])) for at, run in _placed(runs))
        lora = BatchLora(pack, _adapters(runs, rows), deterministic=True)
        return cls._build(runs, rows, last_rows, attended, lora)

    @classmethod
    def _build(
        cls, runs: Sequence[Run], rows: int, last_rows: int, attention: tuple[Attended, ...], lora: BatchLora
    ) -> Batch:
        tokens = [token for run in runs for token in run.tokens]
        positions = [position for run in runs for position in range(run.start, run.end)]
        last = [at.stop - 1 for at, _ in _placed(runs)]
        filled = (_padded(tokens, rows), _padded(positions, rows))
        return cls(*filled, attention, _padded(last, last_rows), len(runs), lora)


def _padded(numbers: list[int], length: int) -> Tensor:
    return torch.tensor(numbers + [0] * (length - len(numbers)))


def _plan(runs: Sequence[Run]) -> AttentionPlan:
    tables = [run.pages[: PageAllocator.needed(run.end)] for run in runs]
    return plan_attention(tables, [len(run.tokens) for run in runs], [run.end for run in runs], PAGE)


def _placed(runs: Sequence[Run]) -> Iterator[tuple[slice, Run]]:
    """Every run with the rows it takes, one run after another."""
    row = 0
    for run in runs:
        yield slice(row, row + len(run.tokens)), run
        row += len(run.tokens)


def _adapters(runs: Sequence[Run], rows: int) -> list[Adapter | None]:
    """Of each row."""
    used = [run.adapter for run in runs for _ in run.tokens]
    return used + [None] * (rows - len(used))
