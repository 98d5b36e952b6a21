"""What rounds of measurements are reduced to, and how their figures are told: the same for all benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def quieter_half(rounds: Iterable[T], others: Callable[[T], float]) -> list[T]:
    """Those in which other programs used the machine least. Rounds are kept or dropped by that, never by their own
    figures."""
    ordered = sorted(rounds, key=others)
    return ordered[: (len(ordered) + 1) // 2]


def percentile(values: Sequence[float], part: float) -> float:
    """The value that `part` of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown, the first column to the left, all others to the right."""
    lines = [titles, [":--", *["--:"] * (len(titles) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
