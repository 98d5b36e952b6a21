"""What a replica remembers of a pool's counters, should the store forget them or be away for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Share:
    """A tenant or a group as the store last told of it, in thousandths, and in which call to the pool (`at`).
    `own`: this replica's part of the counter."""

    lifted: int
    counter: int
    floor: int
    own: int
    at: int


class Known:
    """`own(path)` is what this replica has charged there, now (`Book.total`)."""

    def __init__(self, own: Callable[[str], int]) -> None:
        self._own = own
        self._shares: dict[str, Share] = {}
        self.seq = -1
        self.number = -1
        self.peers = 1
        self._last = 0
        self._lifted_alone: set[str] = set()

    def heard(self, shares: Iterable[tuple[str, int, int, int, int]]) -> None:
        for path, lifted, counter, floor, at in shares:
            self._shares[path] = Share(lifted, counter, floor, self._own(path), at)
            self._last = max(self._last, at)

    def turned(self, seq: int, number: int) -> None:
        """A ticket with this place in the queue was dispatched as this number."""
        self.seq, self.number = max(self.seq, seq), max(self.number, number)

    def next_number(self) -> int:
        self.number += 1
        return self.number

    def counter(self, path: str) -> int:
        """What the counter is now, as far as this replica can know."""
        share = self._shares.get(path)
        own = self._own(path)
        return own if share is None else share.counter + own - share.own

    def counters(self, paths: Iterable[str]) -> dict[str, int]:
        """Of all that the store told of, and of `paths`."""
        return {path: self.counter(path) for path in {*self._shares, *paths} if path}

    def floors(self) -> dict[str, int]:
        """Lift targets by group; "" is the root."""
        return {path: share.floor for path, share in self._shares.items() if path == "" or path.endswith("/")}

    def reached(self, counters: Mapping[str, int], floor: int) -> None:
        """Alone, the counters came to this: beyond what was charged, they were lifted. `floor` is the root's."""
        for path, counter in counters.items():
            share = self._shares.get(path) or Share(0, 0, 0, 0, 0)
            lift = counter - self.counter(path)
            if lift > 0:
                self._lifted_alone.add(path)
            lifted = share.lifted + max(0, lift)
            self._shares[path] = Share(lifted, counter, share.floor, self._own(path), self._last)
        root = self._shares.get("") or Share(0, 0, 0, 0, 0)
        self._shares[""] = Share(root.lifted, root.counter, max(root.floor, floor), 0, self._last)

    def joined(self) -> None:
        """The store has heard all of it."""
        self._lifted_alone.clear()

    def lifted_alone(self) -> dict[str, int]:
        """What counters have come to that were lifted alone, since the last join that was applied."""
        return {path: self.counter(path) for path in sorted(self._lifted_alone)}

    def told(self) -> dict[str, Any]:
        """The form that `join` has for it."""
        shares = {
            path: [share.lifted, self.counter(path), share.floor, share.at] for path, share in self._shares.items()
        }
        return {"shares": shares, "seq": self.seq + 1, "number": self.number + 1}
