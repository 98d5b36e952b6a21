"""One forward pass: which tokens, at which positions, in which pages of which cache, and with which adapters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from backend.models.kv_cache import KvCache
from backend.models.lora import AdapterPack, BatchLora
from backend.models.peft_format import Adapter
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
    in order, then padding. Keys and values of the rows `stored` go to the pages; rows outside it are padding. All
    tensors lie where the cache does."""

    tokens: Tensor
    positions: Tensor
    stored: Attended
    attention: tuple[Attended, ...]
    last_rows: Tensor
    runs: int
    lora: BatchLora

    @classmethod
    def mixed(cls, runs: Sequence[Run], cache: KvCache, pack: AdapterPack) -> Batch:
        """All of `runs`, in as few and large operations as possible."""
        stored, adapters = _all_rows(runs, cache), _adapters(runs)
        return cls._build(runs, cache, len(adapters), len(runs), stored, (stored,), BatchLora(pack, adapters))

    @classmethod
    def fixed(cls, runs: Sequence[Run], cache: KvCache, pack: AdapterPack, rows: int, last_rows: int) -> Batch:
        """`runs` padded to exactly `rows` rows, and `last_rows` of logits; attention one run at a time: the
        arithmetic of a row has the same shapes whatever else is in the batch (the deterministic mode)."""
        adapters = _adapters(runs)
        adapters += [None] * (rows - len(adapters))
        one_by_one = tuple(Attended(at, _plan([run], cache)) for at, run in _placed(runs))
        lora = BatchLora(pack, adapters, deterministic=True)
        return cls._build(runs, cache, rows, last_rows, _all_rows(runs, cache), one_by_one, lora)

    @classmethod
    def _build(
        cls,
        runs: Sequence[Run],
        cache: KvCache,
        rows: int,
        last_rows: int,
        stored: Attended,
        attention: tuple[Attended, ...],
        lora: BatchLora,
    ) -> Batch:
        tokens = [token for run in runs for token in run.tokens]
        positions = [position for run in runs for position in range(run.start, run.end)]
        last = [at.stop - 1 for at, _ in _placed(runs)]
        filled = (_padded(tokens, rows, cache.device), _padded(positions, rows, cache.device))
        return cls(*filled, stored, attention, _padded(last, last_rows, cache.device), len(runs), lora)


def _padded(numbers: list[int], length: int, device: torch.device) -> Tensor:
    return torch.tensor(numbers + [0] * (length - len(numbers)), device=device)


def _plan(runs: Sequence[Run], cache: KvCache) -> AttentionPlan:
    tables = [run.pages[: -(-run.end // cache.page_tokens)] for run in runs]
    new, contexts = [len(run.tokens) for run in runs], [run.end for run in runs]
    return plan_attention(tables, new, contexts, cache.page_tokens, device=cache.device)


def _placed(runs: Sequence[Run]) -> Iterator[tuple[slice, Run]]:
    """Every run with the rows it takes, one run after another."""
    row = 0
    for run in runs:
        yield slice(row, row + len(run.tokens)), run
        row += len(run.tokens)


def _all_rows(runs: Sequence[Run], cache: KvCache) -> Attended:
    return Attended(slice(0, sum(len(run.tokens) for run in runs)), _plan(runs, cache))


def _adapters(runs: Sequence[Run]) -> list[Adapter | None]:
    """Of each row."""
    return [run.adapter for run in runs for _ in run.tokens]
