"""The measured choice between strategies that give the same result: tried once per shape, remembered."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from time import perf_counter

Run = Callable[[], object]
Clock = Callable[[Run], float]  # the seconds that one call of a function takes


class MeasuredChoice:
    """Remembers, per shape, which of several functions ran fastest.

    measure  the clock; of `repeats` times the least counts
    """

    def __init__(self, measure: Clock, repeats: int = 3) -> None:
        self._measure = measure
        self._repeats = repeats
        self._best: dict[Hashable, str] = {}

    def pick(self, shape: Hashable, candidates: Mapping[str, Run]) -> str:
        """The name of the fastest candidate for this shape; measures all of them the first time, after a warm-up."""
        if shape not in self._best:
            self._best[shape] = self._fastest(candidates)
        return self._best[shape]

    def _fastest(self, candidates: Mapping[str, Run]) -> str:
        if len(candidates) == 1:
            return next(iter(candidates))
        for run in candidates.values():
            run()
        return min(candidates, key=lambda name: min(self._measure(candidates[name]) for _ in range(self._repeats)))


def wall_seconds(run: Run) -> float:
    """Seconds by the wall clock, for work that is done when the call returns."""
    start = perf_counter()
    run()
    return perf_counter() - start
