"""Simulations side by side, each in a process of its own: they are pure Python and share nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

PROCESSES = 2


def in_parallel(function: Callable[[Item], Result], items: Collection[Item]) -> Iterator[tuple[Item, Result]]:
    """Each item with what `function` made of it, as they get ready. Both must survive pickling."""
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(function, item): item for item in items}
        for future in as_completed(futures):
            yield futures.pop(future), future.result()
