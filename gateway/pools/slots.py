"""How many requests a worker is trusted with: its slots, less after it said that it is full.

An overflow cuts the limit to what the worker ran right then (and for a moment to nothing, so that the head of the queue
does not spin against a full engine); so do requests that wait inside the engine, where its order counts and not ours:
one may wait, so that the engine never idles. As in TCP's congestion avoidance, each round of requests that it serves
gives one slot back.
"""

from __future__ import annotations

FIRST_HOLD = 0.05
LONGEST_HOLD = 2.0
MAY_WAIT = 1
"""Requests that may wait inside the engine: its queue should hover just above zero."""


class SlotLimit:
    """`limit` is what the room may use now, never above `slots`; 0 while the worker is held off."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.limit = slots
        self._hold = FIRST_HOLD
        self._after_hold = slots
        self._served = 0

    def overflowed(self, running: int) -> float:
        """The engine refused a request while `running` others of ours ran. Returns seconds to hold off until
        `resume`: twice as long each time in a row."""
        self._after_hold = min(self.slots, max(1, running))
        self.limit = 0
        hold, self._hold = self._hold, min(LONGEST_HOLD, 2 * self._hold)
        return hold

    def resume(self) -> None:
        self.limit = self.limit or self._after_hold

    def waiting(self, waiting: int, running: int) -> None:
        """`waiting` requests wait inside the engine, while it holds `running` of ours (those included)."""
        if waiting > MAY_WAIT and self.limit:
            self.limit = min(self.limit, max(1, running - waiting + MAY_WAIT))
            self._served = 0

    def served(self) -> None:
        self._hold = FIRST_HOLD
        self._served += 1
        if self._served >= self.limit and 0 < self.limit < self.slots:
            self.limit += 1
            self._served = 0

    def resize(self, slots: int) -> None:
        """The worker's size became known."""
        self.slots = slots
        self._after_hold = min(self._after_hold, slots)
        self.limit = slots if self.limit else 0
