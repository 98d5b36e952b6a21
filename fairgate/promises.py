"""What a run was to show, and whether it did: one line each, and the exit status."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from rich.console import Console


class Promise(NamedTuple):
    """`text` with its figures. `kept` None: only a figure, nothing was promised."""

    text: str
    kept: bool | None = None


def tell(promises: Iterable[Promise], console: Console) -> bool:
    """Print each; returns whether all were kept."""
    told = list(promises)
    for promise in told:
        mark = {None: " ", True: "✓", False: "✗ MISSED:"}[promise.kept]
        console.print(f"{mark} {promise.text}", highlight=False, markup=False, soft_wrap=True)
    return all(promise.kept is not False for promise in told)


def within(progress: Callable[[str, float], None], title: str, number: int, count: int) -> Callable[[str, float], None]:
    """The progress of run `number` of `count`, as part of all."""
    return lambda what, part: progress(f"{title}: {what}", (number + part) / count)
