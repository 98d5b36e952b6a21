"""The live auditor: is the bound held, right now, and if not, by whom?

It keeps a book of its own. When a member of a group begins to wait its counter is noted, and from there on the
auditor follows what is charged. Among members of one group that wait, the largest less the smallest counter must
stay within the bound U / min w (and then two that both wait through an interval differ by at most twice that in
it). Both extremes are kept as limits that are made exact only when they come too far apart: a charge mostly costs
two comparisons, every event O(log n) amortised.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from math import inf
from typing import NamedTuple

Key = tuple[int, int, "Watch"]  # (limit on the counter, serial number, whose)


class Crossing(NamedTuple):
    """The bound was crossed: by whom, how far, and since when both waited. Counters in service units / weight."""

    group: str
    ahead: str
    ahead_counter: float
    behind: str
    behind_counter: float
    gap: float
    bound: float
    since: float
    now: float

    def __str__(self) -> str:
        return (
            f"{self.ahead} (counter {self.ahead_counter:g}) is {self.gap:g} ahead of {self.behind} "
            f"(counter {self.behind_counter:g}), the bound is {self.bound:g}; both waited from {self.since:g} "
            f"to {self.now:g}"
        )


@dataclass(slots=True, eq=False)
class Watch:
    """A member that waits."""

    path: str
    auditor: Auditor
    siblings: Siblings
    counter: int
    since: float
    top: int = 0  # the limit in its entry of `highs`
    low_key: Key | None = None  # its valid entry in `lows`, not above its counter
    high_key: Key | None = None  # its valid entry in `highs`, not below its counter (negated)

    def moved(self, delta: int) -> None:
        """It was charged, or refunded where `delta` is negative."""
        self.counter += delta
        if delta < 0:
            self.auditor.lower(self)
        elif self.counter > self.top:
            self.auditor.raise_(self)

    def left(self) -> None:
        """It has nothing waiting any more."""
        self.auditor.left(self)


@dataclass(slots=True, eq=False)
class Siblings:
    """The members of one group that wait."""

    group: str
    waiting: int = 0
    lows: list[Key] = field(default_factory=list)
    highs: list[Key] = field(default_factory=list)
    low: int = 0  # not above the smallest counter
    high: int = 0  # not below the largest counter
    crossed: bool = False

    def least(self) -> Watch:
        while True:
            key = self.lows[0]
            watch = key[2]
            if watch.low_key != key:
                heapq.heappop(self.lows)
            elif key[0] == watch.counter:
                return watch
            else:
                watch.low_key = (watch.counter, key[1], watch)
                heapq.heapreplace(self.lows, watch.low_key)

    def most(self) -> Watch:
        while True:
            key = self.highs[0]
            watch = key[2]
            if watch.high_key != key:
                heapq.heappop(self.highs)
            elif key[0] == -watch.counter:
                return watch
            else:
                watch.top = watch.counter
                watch.high_key = (-watch.counter, key[1], watch)
                heapq.heapreplace(self.highs, watch.high_key)

    def tidy(self) -> None:
        """Drop outdated entries before they outnumber the valid ones."""
        if len(self.lows) > 2 * self.waiting + 64:
            self.lows = [key for key in self.lows if key[2].low_key == key]
            heapq.heapify(self.lows)
        if len(self.highs) > 2 * self.waiting + 64:
            self.highs = [key for key in self.highs if key[2].high_key == key]
            heapq.heapify(self.highs)


class Auditor:
    """Give it to a `Scheduler`. `alarm` is called once each time a gap comes to cross the bound; `clock` tells the
    moment, in the caller's units. `crossings` counts the alarms.

    `scale` is the number of counter units in one service unit / weight.
    """

    def __init__(self, alarm: Callable[[Crossing], None], clock: Callable[[], float], scale: int = 1000) -> None:
        self._alarm = alarm
        self._clock = clock
        self._scale = scale
        self._groups: dict[str, Siblings] = {}
        self._serial = count()
        self._ask: Callable[[], tuple[float, int]] = lambda: (inf, 0)
        self._bound = inf
        self._limit = inf
        self._headroom = 0
        self.crossings = 0

    def attach(self, ask: Callable[[], tuple[float, int]]) -> None:
        """`ask` tells the bound in service units / weight, and the counter units by which rounding may exceed it."""
        self._ask = ask
        self.refresh()

    def refresh(self) -> None:
        """The bound may have changed."""
        self._bound, rounding = self._ask()
        self._limit = self._bound * self._scale + rounding
        self._headroom = int(min(self._limit, 2**53) / 8)

    # -- events ------------------------------------------------------------------------------------------------

    def joined(self, group: str, path: str, counter: int) -> Watch:
        """A member begins to wait."""
        siblings = self._groups.get(group)
        if siblings is None:
            siblings = self._groups[group] = Siblings(group, low=counter, high=counter)
        siblings.waiting += 1
        watch = Watch(path, self, siblings, counter, self._clock())
        self.lower(watch)
        self.raise_(watch)
        return watch

    def left(self, watch: Watch) -> None:
        """A member has nothing waiting any more."""
        siblings = watch.siblings
        watch.low_key = watch.high_key = None
        siblings.waiting -= 1
        siblings.tidy()
        if not siblings.waiting:
            del self._groups[siblings.group]

    def gap(self) -> float:
        """The largest difference of two counters in a group right now, in service units / weight."""
        gaps = [group.most().counter - group.least().counter for group in self._groups.values()]
        return max(gaps, default=0) / self._scale

    # -- inside ------------------------------------------------------------------------------------------------

    def lower(self, watch: Watch) -> None:
        siblings = watch.siblings
        watch.low_key = (watch.counter, next(self._serial), watch)
        heapq.heappush(siblings.lows, watch.low_key)
        siblings.low = min(siblings.low, watch.counter)
        self._look(siblings)

    def raise_(self, watch: Watch) -> None:
        siblings = watch.siblings
        watch.top = watch.counter + self._headroom
        watch.high_key = (-watch.top, next(self._serial), watch)
        heapq.heappush(siblings.highs, watch.high_key)
        siblings.high = max(siblings.high, watch.top)
        self._look(siblings)

    def _look(self, siblings: Siblings) -> None:
        siblings.tidy()
        if siblings.high - siblings.low > self._limit:
            self._compare(siblings)

    def _compare(self, siblings: Siblings) -> None:
        """Make the two limits exact, and raise the alarm if they are now further apart than the bound."""
        behind, ahead = siblings.least(), siblings.most()
        siblings.low, siblings.high = behind.counter, ahead.counter
        gap = ahead.counter - behind.counter
        if gap > self._limit:
            self.refresh()
        if gap > self._limit and not siblings.crossed:
            self.crossings += 1
            self._alarm(self._crossing(siblings, ahead, behind))
        siblings.crossed = gap > self._limit

    def _crossing(self, siblings: Siblings, ahead: Watch, behind: Watch) -> Crossing:
        return Crossing(
            siblings.group,
            ahead.path,
            ahead.counter / self._scale,
            behind.path,
            behind.counter / self._scale,
            (ahead.counter - behind.counter) / self._scale,
            self._bound,
            max(ahead.since, behind.since),
            self._clock(),
        )
