"""The page allocator: pages are conserved whatever is reserved and released."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.worker.memory.pages import PAGE, PageAllocator, PageError


@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5 * PAGE)), max_size=40))
def test_pages_are_held_once_and_never_more_than_there_are(count: int, play: list[tuple[int, int]]) -> None:
    allocator = PageAllocator(count)
    held: dict[str, list[int]] = {}
    for number, tokens in play:
        owner = str(number)
        if owner in held:
            allocator.release(owner)
            del held[owner]
        else:
            free = count - sum(map(len, held.values()))
            pages = allocator.reserve(owner, tokens)
            assert (pages is not None) == (-(-tokens // PAGE) <= free)
            if pages is not None:
                assert len(pages) * PAGE >= tokens > (len(pages) - 1) * PAGE
                held[owner] = list(pages)
        allocator.check_integrity()
        taken = [page for pages in held.values() for page in pages]
        assert len(taken) == len(set(taken)) == allocator.used


def test_misuse_is_a_bug_and_says_so() -> None:
    allocator = PageAllocator(4)
    allocator.reserve("a", 1)
    with pytest.raises(PageError, match="a reserves pages twice"):
        allocator.reserve("a", 1)
    with pytest.raises(PageError, match="b gives back pages that it does not hold"):
        allocator.release("b")


def test_integrity_sees_a_page_held_twice() -> None:
    """The control: a broken allocator is found out."""
    allocator = PageAllocator(4)
    pages = allocator.reserve("a", 1)
    assert pages is not None
    pages.append(3)
    with pytest.raises(PageError, match="do not add up"):
        allocator.check_integrity()
