"""The KV cache, in pages of PAGE tokens: who holds which page, and the tensors behind them.

Page 0 belongs to nobody: rows that only pad a batch write their keys and values there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backend.config import PAGE
from backend.spec import ModelSpec

SCRATCH = 0


class PageError(Exception):
    """The engine broke the allocator's protocol: a bug, never bad input."""


class PageAllocator:
    """Hands out pages 1..count. A request reserves all pages it can come to need before it starts, so that no
    request is ever stopped, or computed twice, for want of a page."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count, 0, -1))
        self._held: dict[str, list[int]] = {}

    @staticmethod
    def needed(tokens: int) -> int:
        return -(-tokens // PAGE)

    @property
    def used(self) -> int:
        return self.count - len(self._free)

    def reserve(self, owner: str, tokens: int) -> list[int] | None:
        """Pages for `tokens` tokens, or None when there are not enough; nothing changes then."""
        if owner in self._held:
            raise PageError(f"{owner} reserves pages twice")
        if (need := self.needed(tokens)) > len(self._free):
            return None
        self._held[owner] = [self._free.pop() for _ in range(need)]
        return self._held[owner]

    def release(self, owner: str) -> None:
        if owner not in self._held:
            raise PageError(f"{owner} gives back pages that it does not hold")
        self._free.extend(reversed(self._held.pop(owner)))

    def check_integrity(self) -> None:
        """Every page is free or held, exactly once; the scratch page neither. Raises PageError."""
        pages = sorted(self._free + [page for held in self._held.values() for page in held])
        if pages != list(range(1, self.count + 1)):
            raise PageError(f"pages do not add up: {len(pages)} known, {self.count} expected, each once")


class KvCache:
    """Keys and values of every layer, each [pages + 1, PAGE, kv_heads, head_dim]."""

    def __init__(self, spec: ModelSpec, pages: int, dtype: torch.dtype) -> None:
        shape = (pages + 1, PAGE, spec.kv_heads, spec.head_dim)
        self.keys = [torch.zeros(shape, dtype=dtype) for _ in spec.layers]
        self.values = [torch.zeros(shape, dtype=dtype) for _ in spec.layers]

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store rows [n, kv_heads, head_dim] at `slots` [n], each page * PAGE + offset."""
        self.keys[layer].flatten(0, 1).index_copy_(0, slots, keys)
        self.values[layer].flatten(0, 1).index_copy_(0, slots, values)

    def gather(self, layer: int, tables: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values in pages `tables` [requests, pages]: each [requests, pages * PAGE, kv_heads, head_dim]."""
        return _gather(self.keys[layer], tables), _gather(self.values[layer], tables)


def _gather(cache: Tensor, tables: Tensor) -> Tensor:
    requests, pages = tables.shape
    return cache.index_select(0, tables.flatten()).view(requests, pages * PAGE, *cache.shape[2:])
