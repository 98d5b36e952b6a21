"""The nouns of the law: a request as the scheduler sees it, and what can become of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fairness.shares import Account


class State(Enum):
    """Where a ticket stands. Every ticket ends in DONE or CANCELLED, exactly once."""

    NEW = "new"
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"


@dataclass(slots=True, eq=False)
class Ticket:
    """One request. The caller fills in the first block; the scheduler alone writes the second.

    `tenant` is a name, or a path in a tree of shares (`acme/search/alice`). `input_tokens` may be an estimate:
    `Scheduler.correct` replaces it by what the engine counted. `max_tokens` is the most output the request may
    produce. `deadline` is the moment, on the caller's clock, after which a ticket that still waits is expired.
    `avoid` names workers that must not get it. `priority` is its class where the policy has classes, 0 the first.
    `streams`: its output is seen as it is produced; otherwise at its end, all at once, which tells nothing of when the
    first token came.
    """

    id: str
    tenant: str
    input_tokens: int
    max_tokens: int
    deadline: float = inf
    adapter: str = ""
    avoid: frozenset[str] = frozenset()
    priority: int = 0
    streams: bool = True

    state: State = State.NEW
    seq: int = -1
    worker: str = ""
    predicted: int = 0
    cached_tokens: int = 0
    produced: int = 0
    reserved: int = 0
    load: float = 0.0  # service charged for bringing its adapter in
    accounts: tuple[Account, ...] = ()  # one for each level of the tree, the tenant's own first; empty until it runs

    @property
    def charged(self) -> int:
        """What the tenant's own counter has been charged for this ticket, in thousandths of service / weight."""
        return self.accounts[0].charged if self.accounts else 0


class Grant(NamedTuple):
    """A ticket's turn: it is now running on `worker`, its room reserved and its input charged."""

    ticket: Ticket
    worker: str


class Refusal(NamedTuple):
    """Why a ticket was not queued. `reason` is machine-readable; `retry_after` in seconds where waiting helps."""

    reason: str
    message: str
    retry_after: float | None = None


class LawError(Exception):
    """The caller broke the protocol (finished a ticket twice, charged one that waits...): a bug, never bad input."""
