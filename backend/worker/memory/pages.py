"""The KV cache, in pages of PAGE tokens: who holds which page."""

from __future__ import annotations

PAGE = 16  # tokens a KV page holds


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
        """Pages for `tokens` tokens."""
        return -(-tokens // PAGE)

    @property
    def used(self) -> int:
        return self.count - len(self._free)

    @property
    def held(self) -> list[int]:
        """The pages that somebody holds, ascending."""
        return sorted(page for pages in self._held.values() for page in pages)

    def reserve(self, owner: str, tokens: int) -> list[int] | None:
        """Pages for `tokens` tokens, or None when there are not enough; nothing changes then. Raises
        PageError when `owner` holds pages already."""
        if owner in self._held:
            raise PageError(f"{owner} reserves pages twice")
        if (need := self.needed(tokens)) > len(self._free):
            return None
        self._held[owner] = [self._free.pop() for _ in range(need)]
        return self._held[owner]

    def release(self, owner: str) -> None:
        """All pages of `owner` are free again. Raises PageError when it holds none."""
        if owner not in self._held:
            raise PageError(f"{owner} gives back pages that it does not hold")
        self._free.extend(reversed(self._held.pop(owner)))

    def check_integrity(self) -> None:
        """Every page is free or held, exactly once. Raises PageError."""
        pages = sorted(self._free + self.held)
        if pages != list(range(self.count)):
            raise PageError(f"pages do not add up: {len(pages)} known, {self.count} expected, each once")
