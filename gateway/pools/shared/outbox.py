"""What a replica has to tell the store with its next calls, and how soon.

Tokens that were seen may wait `flush_s` for company, what gives room back `LINGER` while nobody waits for room;
everything else is told at once: with a call that goes out when this turn of the loop is over, so that all that happens
in the turn shares it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import final

from gateway.pools.shared.protocol import Charge, Op

MOST_OPS = 1000
"""Operations in one call, so that none keeps the server busy for long. Reports of tokens come on top."""
LINGER = 0.002
"""Seconds that an operation which gives room back may wait for company while nobody waits for room."""


@final
class Outbox:
    """`due`: a call is to go out. `urgent`: there is something in it that somebody waits for. `news`: something has
    been told but for mentions. `on_due` is called once in a turn of the loop in which a call becomes due. What is told
    while it is `closed` is dropped."""

    def __init__(self, flush_s: float, on_due: Callable[[], None]) -> None:
        self.closed = False
        self.due = False
        self.urgent = False
        self.news = False
        self._flush_s = flush_s
        self._on_due = on_due
        self._ops: list[Op] = []
        self._charges: dict[str, Op] = {}
        self._mentions: dict[str, Op] = {}
        self._soon: asyncio.Handle | None = None
        self._flush: asyncio.TimerHandle | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._hold: asyncio.TimerHandle | None = None

    # -- telling -----------------------------------------------------------------------------------------------

    def tell(self, op: Op) -> None:
        if not self.closed:
            self._ops.append(op)
            self.urgent = True
            self.call()

    def tell_within_linger(self, op: Op) -> None:
        if not self.closed:
            self._ops.append(op)
            if self._linger is None:
                self._linger = asyncio.get_running_loop().call_later(LINGER, self.call)

    def mention(self, subject: str, op: Op) -> None:
        """With the next call, whenever that is; ahead of all that is told. The last one of a `subject` counts."""
        if not self.closed:
            self._mentions[subject] = op

    def charge(self, op: Charge) -> None:
        """What was said before of the ticket is out of date."""
        if not self.closed:
            self._charges[op.id] = op
            if self._flush is None:
                self._flush = asyncio.get_running_loop().call_later(self._flush_s, self.call)

    def drop_charge(self, ticket: str) -> None:
        """The operation that follows says it all."""
        self._charges.pop(ticket, None)

    def call(self) -> None:
        """A call is due, even an empty one."""
        self.due = True
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_soon(self._say_so)

    def call_after(self, seconds: float) -> None:
        """A call is due then; 0: not for this. The last word counts."""
        if self._hold is not None:
            self._hold.cancel()
        self._hold = asyncio.get_running_loop().call_later(seconds, self.call) if seconds else None

    # -- taking ------------------------------------------------------------------------------------------------

    def take(self) -> list[Op]:
        """What the next call carries. Some may be left, and then another is due."""
        self._stop_waiting()
        self.news = self.news or bool(self._charges or self._ops)
        ops = [*self._mentions.values(), *self._charges.values(), *self._ops[:MOST_OPS]]
        self._mentions.clear()
        self._charges.clear()
        del self._ops[:MOST_OPS]
        self.due = self.urgent = bool(self._ops)
        return ops

    def drop(self) -> None:
        for untold in (self._ops, self._charges, self._mentions):
            untold.clear()
        self.due = self.urgent = False

    def stop(self) -> None:
        """No timer is left."""
        self._stop_waiting()
        self.call_after(0.0)
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None

    def _say_so(self) -> None:
        self._soon = None
        self._on_due()

    def _stop_waiting(self) -> None:
        for timer in (self._flush, self._linger):
            if timer is not None:
                timer.cancel()
        self._flush = self._linger = None
