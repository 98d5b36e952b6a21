"""One forward pass: which tokens, at which positions, in which pages, and with which adapters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from backend.models.lora import AdapterPack, BatchLora
from backend.models.pages import PageAllocator
from backend.models.peft_format import Adapter
from backend.worker.config import PAGE
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
    """Rows that the kernels handle in one call."""

    rows: slice
    plan: AttentionPlan


@dataclass(frozen=True, slots=True)
class Batch:
    """`tokens` and `positions` [rows]; logits are computed of `last_rows`: the last row of each of the `runs` runs,
    in order, then padding. Keys and values of the rows `stored` go to the pages; rows outside it are padding."""

    tokens: Tensor
    positions: Tensor
    stored: Attended
    attention: tuple[Attended, ...]
    last_rows: Tensor
    runs: int
    lora: BatchLora

    @classmethod
    def mixed(cls, runs: Sequence[Run], pack: AdapterPack) -> Batch:
        """All of `runs`, in as few and large operations as possible."""
        stored, adapters = _all_rows(runs), _adapters(runs)
        return cls._build(runs, len(adapters), len(runs), stored, (stored,), BatchLora(pack, adapters))

    @classmethod
    def fixed(cls, runs: Sequence[Run], pack: AdapterPack, rows: int, last_rows: int) -> Batch:
        """`runs` padded to exactly `rows` rows, and `last_rows` of logits; attention one run at a time: the
        arithmetic of a row has the same shapes whatever else is in the batch (the deterministic mode)."""
        adapters = _adapters(runs)
        adapters += [None] * (rows - len(adapters))
        one_by_one = tuple(Attended(at, _plan([run])) for at, run in _placed(runs))
        lora = BatchLora(pack, adapters, deterministic=True)
        return cls._build(runs, rows, last_rows, _all_rows(runs), one_by_one, lora)

    @classmethod
    def _build(
        cls,
        runs: Sequence[Run],
        rows: int,
        last_rows: int,
        stored: Attended,
        attention: tuple[Attended, ...],
        lora: BatchLora,
    ) -> Batch:
        tokens = [token for run in runs for token in run.tokens]
        positions = [position for run in runs for position in range(run.start, run.end)]
        last = [at.stop - 1 for at, _ in _placed(runs)]
        filled = (_padded(tokens, rows), _padded(positions, rows))
        return cls(*filled, stored, attention, _padded(last, last_rows), len(runs), lora)


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


def _all_rows(runs: Sequence[Run]) -> Attended:
    return Attended(slice(0, sum(len(run.tokens) for run in runs)), _plan(runs))


def _adapters(runs: Sequence[Run]) -> list[Adapter | None]:
    """Of each row."""
    return [run.adapter for run in runs for _ in run.tokens]
