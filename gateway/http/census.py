"""Who is connected, and who may still come in.

A place is worth most to a client whose request is being served, least to one that says nothing. So when all places are
taken, the one that has been waited for the longest goes (idle between requests, in a slow head, in a slow handshake,
or slow to read the last answer).
When everybody is served, newcomers have one of a few spare places, in which they can ask for a page, so that health can
be asked for then too; and only when nobody of those goes either is one turned away.
"""

from __future__ import annotations

from typing import Final, Protocol, final

from gateway.errors import ApiError, Overloaded, RateLimited

SPARE: Final = 16


class Guest(Protocol):
    """A connection. `deadline`: when its patience is over, on the loop's clock."""

    deadline: float

    def expire(self) -> None:
        """It has passed."""

    def close(self) -> None:
        """Close when what was written is sent."""

    def evict(self) -> None:
        """Close at once."""


@final
class Census:
    """`most` connections in all, `most_per_address` from one address (None: as many as there are places).

    `turned_away` and `evicted` count since the start.
    """

    __slots__ = ("_by_address", "_guests", "_most", "_most_per_address", "_spare", "_waiting", "evicted", "turned_away")

    def __init__(self, most: int, most_per_address: int | None) -> None:
        self._most = most
        self._most_per_address = most_per_address
        self._guests: dict[Guest, str] = {}
        self._by_address: dict[str, int] = {}
        self._waiting: dict[Guest, None] = {}  # for their bytes, the longest first
        self._spare: set[Guest] = set()  # those who have none of the regular places
        self.turned_away = 0
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._guests)

    def guests(self) -> list[Guest]:
        return list(self._guests)

    def enter(self, guest: Guest, address: str) -> ApiError | None:
        """Why there is no place for it; else it has one. An empty address is not counted by itself."""
        if (refusal := self._over_share(address)) is not None:
            return refusal
        if not self._has_room() and not self._make_room(spare=False):
            if len(self._spare) >= SPARE and not self._make_room(spare=True):
                self.turned_away += 1
                return too_many()
            self._spare.add(guest)
        self._add(guest, address)
        self._waiting[guest] = None
        return None

    def comes_from(self, guest: Guest, address: str) -> ApiError | None:
        """A guest's address becomes known when it has a place already: why it may not keep it."""
        if (refusal := self._over_share(address)) is not None:
            return refusal
        self._remove(guest)
        self._add(guest, address)
        return None

    def leave(self, guest: Guest) -> None:
        """May be repeated."""
        if guest in self._guests:
            self._remove(guest)
            self._waiting.pop(guest, None)
            self._spare.discard(guest)

    def serves(self, guest: Guest) -> bool:
        """A request of its has come; whether it has a regular place, so that it may ask for more than a page."""
        self._waiting.pop(guest, None)
        if guest in self._spare and (self._has_room() or self._make_room(spare=False)):
            self._spare.discard(guest)
        return guest not in self._spare

    def awaits(self, guest: Guest) -> None:
        """It has its answer, and is waited for from now on: for another request, or to read and go."""
        if guest in self._guests:
            self._waiting[guest] = None

    def _over_share(self, address: str) -> ApiError | None:
        if self._most_per_address is None or self._by_address.get(address, 0) < self._most_per_address:
            return None
        self.turned_away += 1
        message = f"{self._most_per_address} connections from one address are the limit here."
        return RateLimited("too_many_connections_from_address", message)

    def _has_room(self) -> bool:
        """Of the regular places one is free."""
        return len(self._guests) - len(self._spare) < self._most

    def _make_room(self, *, spare: bool) -> bool:
        """The one goes that has been waited for the longest among those in the spare places, or in the regular ones."""
        longest = next((guest for guest in self._waiting if (guest in self._spare) is spare), None)
        if longest is None:
            return False
        self.evicted += 1
        self.leave(longest)
        longest.evict()
        return True

    def _add(self, guest: Guest, address: str) -> None:
        self._guests[guest] = address
        if address:
            self._by_address[address] = self._by_address.get(address, 0) + 1

    def _remove(self, guest: Guest) -> None:
        address = self._guests.pop(guest)
        left = self._by_address.pop(address, 0) - 1
        if left > 0:
            self._by_address[address] = left


def too_many() -> Overloaded:
    message = "All connections of this gateway are in use."
    return Overloaded("too_many_connections", message, headers={"Retry-After": "1"})
