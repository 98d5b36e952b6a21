"""How many requests a worker is trusted with: its configured slots, less after it said it is full.

Additive increase, multiplicative decrease, as TCP does it: an overflow cuts the limit to what the worker runs right
then (for a moment to nothing, so that the head of the queue does not spin against a full engine), and every request
it serves gives one slot back.
"""

from __future__ import annotations

FIRST_HOLD = 0.05
LONGEST_HOLD = 2.0


class SlotLimit:
    """`limit` is what the room may use now, never above `slots`."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.limit = slots
        self._hold = FIRST_HOLD

    def overflowed(self, running: int) -> float:
        """The engine refused a request while `running` others of ours ran. Returns seconds to hold off: twice as
        long each time in a row. Until `resume` no new request goes there."""
        self._target = max(1, running)
        self.limit = 0
        hold, self._hold = self._hold, min(LONGEST_HOLD, 2 * self._hold)
        return hold

    def resume(self) -> None:
        if self.limit == 0:
            self.limit = min(self.slots, self._target)

    def served(self) -> None:
        self._hold = FIRST_HOLD
        if 0 < self.limit < self.slots:
            self.limit += 1

    def resize(self, slots: int) -> None:
        """The worker's size became known."""
        self.limit = min(slots, self.limit + max(0, slots - self.slots)) if self.limit else 0
        self.slots = slots

    _target: int = 1
