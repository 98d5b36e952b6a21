"""How fast a queue drains, and so when it is worth coming back: the source of every Retry-After."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, exp

WINDOW = 30.0
"""Time constant, seconds, of the measured rate."""
LONGEST_WAIT = 60.0
JITTER = 0.25


class DrainRate:
    """An exponentially decaying count of dispatches. `now` in seconds on the caller's clock; `chance` in [0, 1)."""

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance
        self._count = 0.0
        self._at = 0.0

    def dispatched(self, now: float) -> None:
        self._decay(now)
        self._count += 1

    def retry_after(self, waiting: int, now: float) -> float:
        """Seconds until `waiting` requests are served at the present rate, 1 to 60, plus up to a quarter so that
        refused clients do not come back all at once. With nothing dispatched lately: a second a request."""
        self._decay(now)
        rate = max(self._count / WINDOW, 1 / WINDOW)
        wait = min(LONGEST_WAIT, max(1.0, waiting / rate if self._count >= 1 else float(waiting)))
        return wait * (1 + JITTER * self._chance())

    def _decay(self, now: float) -> None:
        self._count *= exp(-max(0.0, now - self._at) / WINDOW)
        self._at = now


def retry_headers(seconds: float) -> dict[str, str]:
    """`Retry-After` in whole seconds, at least 1 (SDKs retry 0 at once), and `retry-after-ms`, which they prefer."""
    return {"Retry-After": str(max(1, ceil(seconds))), "retry-after-ms": str(max(1, ceil(seconds * 1000)))}
