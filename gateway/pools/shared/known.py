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
    """`own(path)` is what this replica has charged there, now (`Book.total`).

    Example, in thousandths: the store told of tenant a a counter of 90,000, of which 30,000 were lifted; this replica
    had charged 20,000 of it and another one 40,000. Since then this one has charged 5,000 more: a is at 95,000, as far
    as it can know. Then the store loses its data, and both join. Each tells that 30,000 were lifted, and its own book,
    25,000 and 47,000, because the other has charged more, too: 30,000 + 25,000 + 47,000 = 102,000 is where a was.
    Had the other died with the store, nobody could tell of its book: lifts and books come to 55,000 only. The counter
    of 95,000 that this replica tells of counts then, or a would be served 40,000 for nothing. What the dead one had
    charged since, 7,000, is lost.
    """

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

    def reached(self, counters: Mapping[str, int], lift_targets: Mapping[str, int]) -> None:
        """Alone, counters and lift targets came to this: beyond what was charged here counters were lifted.

        Whoever is not among the counters was forgotten alone, since the lift target of its group had reached it. What
        was known of it before is kept all the same: while that lift target is known, it counts for nothing; and a store
        that lost no data, which does not take the lift target, still has the member where it was. Example: the store
        has b at 1,833 and its lift target at 26. Alone the target came to 3,640 and b was forgotten. The replica joins,
        and hears of a target of 26 again. It loses the store once more: had it dropped b, b would begin at 26, and be
        served 1,807 for nothing. Members of a group that was itself forgotten are dropped: nothing stands for them.
        """
        shares = {path: share for path, share in self._shares.items() if _group_of(path) in lift_targets}
        shares |= {path: Share(self._reached(path, counter), self._own(path)) for path, counter in counters.items()}
        for path, lift_target in lift_targets.items():
            share = shares.setdefault(path, Share(_NOTHING._replace(at=self._last), self._own(path)))
            share.told = share.told._replace(lift_target=lift_target)
        self._shares = shares
        self._lifted_alone &= counters.keys()

    def _reached(self, path: str, counter: int) -> ShareState:
        lift = max(0, counter - self.counter(path))
        if lift:
            self._lifted_alone.add(path)
        lifted = self._shares[path].told.lifted if path in self._shares else 0
        return ShareState(lifted + lift, counter, 0, self._last)

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


def _group_of(path: str) -> str:
    """The path of the group that a member, or a group, is in."""
    above = path.removesuffix("/").rpartition("/")[0]
    return f"{above}/" if above else ""
