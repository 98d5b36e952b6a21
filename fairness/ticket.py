"""The nouns of the law: a request as the scheduler sees it, and what can become of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import NamedTuple


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

    `input_tokens` may be an estimate: `Scheduler.correct` replaces it by what the engine counted.
    `max_tokens` is the most output the request may produce. `deadline` is the moment, on the caller's
    clock, after which a ticket that still waits is expired. `avoid` names workers that must not get it.
    """

    id: str
    tenant: str
    input_tokens: int
    max_tokens: int
    deadline: float = inf
    adapter: str = ""
    avoid: frozenset[str] = frozenset()

    state: State = State.NEW
    seq: int = -1
    worker: str = ""
    predicted: int = 0
    cached_tokens: int = 0
    produced: int = 0
    reserved: int = 0
    charged: int = 0
    # (service already measured, weight it is priced at from there on), oldest first: one entry unless the
    # tenant's weight changed while the ticket ran.
    prices: list[tuple[float, float]] = field(default_factory=list)


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
