"""The KV cache, in pages of PAGE tokens: who holds which page, and the tensors behind them."""

from __future__ import annotations

import torch

from backend.models.spec import ModelSpec
from backend.worker.config import PAGE


class PageError(Exception):
    """The engine broke the allocator's protocol: a bug, never bad input."""


class PageAllocator:
    """Hands out pages 0..count - 1. A request reserves all pages it can come to need before it starts, so that no
    request is ever stopped, or computed twice, for want of a page."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count - 1, -1, -1))
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
        """Every page is free or held, exactly once. Raises PageError."""
        pages = sorted(self._free + [page for held in self._held.values() for page in held])
        if pages != list(range(self.count)):
            raise PageError(f"pages do not add up: {len(pages)} known, {self.count} expected, each once")


class KvCache:
    """Keys and values of every layer, each [pages, PAGE, kv_heads, head_dim]."""

    def __init__(self, spec: ModelSpec, pages: int, dtype: torch.dtype) -> None:
        shape = (pages, PAGE, spec.kv_heads, spec.head_dim)
        self.keys = [torch.zeros(shape, dtype=dtype) for _ in spec.layers]
        self.values = [torch.zeros(shape, dtype=dtype) for _ in spec.layers]
