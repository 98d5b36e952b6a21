"""What a replica remembers of a pool's counters, should the store forget them or be away for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from gateway.pools.shared.protocol import Remembered, ShareState

_NOTHING = ShareState(0, 0, 0, 0)


@dataclass(slots=True)
class Share:
    """A tenant or a group as the store last told of it, and `own`, this replica's part of the counter then."""

    told: ShareState
    own: int


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

    def heard(self, shares: Mapping[str, ShareState]) -> None:
        for path, told in shares.items():
            self._shares[path] = Share(told, self._own(path))
            self._last = max(self._last, told.at)

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
        return own if share is None else share.told.counter + own - share.own

    def counters(self, paths: Iterable[str]) -> dict[str, int]:
        """Of all that the store told of, and of `paths`."""
        return {path: self.counter(path) for path in {*self._shares, *paths} if path}

    def lift_targets(self) -> dict[str, int]:
        """By group; "" is the root."""
        groups = (path for path in self._shares if path == "" or path.endswith("/"))
        return {path: self._shares[path].told.lift_target for path in groups}

    def reached(self, counters: Mapping[str, int], lift_target: int) -> None:
        """Alone, the counters came to this: beyond what was charged, they were lifted. `lift_target` is the root's."""
        for path, counter in counters.items():
            told = self._told(path)
            lift = counter - self.counter(path)
            if lift > 0:
                self._lifted_alone.add(path)
            told = ShareState(told.lifted + max(0, lift), counter, told.lift_target, self._last)
            self._shares[path] = Share(told, self._own(path))
        root = self._told("")
        root = root._replace(lift_target=max(root.lift_target, lift_target), at=self._last)
        self._shares[""] = Share(root, 0)

    def joined(self) -> None:
        """The store has heard all of it."""
        self._lifted_alone.clear()

    def lifted_alone(self) -> dict[str, int]:
        """What counters have come to that were lifted alone, since the last join that was applied."""
        return {path: self.counter(path) for path in sorted(self._lifted_alone)}

    def remembered(self) -> Remembered:
        """What is told to a store that may have forgotten."""
        shares = {path: share.told._replace(counter=self.counter(path)) for path, share in self._shares.items()}
        return Remembered(shares, self.seq + 1, self.number + 1)

    def _told(self, path: str) -> ShareState:
        share = self._shares.get(path)
        return _NOTHING if share is None else share.told
