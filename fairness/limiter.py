"""A sliding window over accepted events, on the caller's clock."""

from __future__ import annotations

from collections import OrderedDict, deque


class SlidingWindow:
    """At most `limit` accepted events per key in any `window` seconds. Rejected events do not count.

    Keys whose last accepted event left the window are forgotten, so it holds no state for those that are gone.
    """

    def __init__(self, limit: int, window: float) -> None:
        self.limit = limit
        self.window = window
        self._events: OrderedDict[str, deque[float]] = OrderedDict()

    def admit(self, key: str, now: float) -> float | None:
        """Accept the event and return None, or return the seconds after which one more would be accepted."""
        self._forget(now)
        events = self._events.setdefault(key, deque())
        while events and events[0] <= now - self.window:
            events.popleft()
        if len(events) >= self.limit:
            return events[0] + self.window - now
        events.append(now)
        self._events.move_to_end(key)
        return None

    def remaining(self, key: str, now: float) -> int:
        """Events that would still be accepted right now."""
        return self.limit - sum(event > now - self.window for event in self._events.get(key, ()))

    def _forget(self, now: float) -> None:
        while self._events:
            key, events = next(iter(self._events.items()))
            if events and events[-1] > now - self.window:
                return
            del self._events[key]
