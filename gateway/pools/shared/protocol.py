"""What a replica and the state machine in the store say to each other, and how it is written: the only file that knows.

A call is a batch of operations, each written as [name, argument, ...] and applied by the Lua function `op.<name>`
(lua/apply.lua). Its answer is a list read by position; what it grants is JSON, as in the replica's stream of grants.
Tokens are counts, and all of a report are totals; counters, charges and lift targets are in thousandths of service /
weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from fairness import Refusal

# -- operations --------------------------------------------------------------------------------------------------------


class Submit(NamedTuple):
    """Queue a ticket."""

    id: str
    tenant: str
    n_in: int
    max_tokens: int


class Charge(NamedTuple):
    """What is known by now of a ticket that runs."""

    id: str
    n_in: int
    cached: int
    produced: int


class Finish(NamedTuple):
    """A ticket was served to its end."""

    id: str
    n_in: int
    cached: int
    produced: int


class Cancel(NamedTuple):
    """A ticket leaves; one that runs stays charged for what was seen."""

    id: str
    n_in: int
    cached: int
    produced: int


class Undo(NamedTuple):
    """A ticket leaves as if it had never been dispatched."""

    id: str


class Requeue(NamedTuple):
    """Undo the dispatch and wait again, in the old place and away from the workers named."""

    id: str
    avoid: list[str]


class WorkerReport(NamedTuple):
    """What was seen of a worker."""

    worker: str
    seen: dict[str, int]

    @classmethod
    def of_health(cls, worker: str, healthy: bool, ttl_ms: int) -> WorkerReport:
        """A probe's result; a good one is believed for `ttl_ms`."""
        return cls(worker, {"healthy": healthy, "ttl_ms": ttl_ms})

    @classmethod
    def of_overflow(cls, worker: str) -> WorkerReport:
        """It refused a request for want of room."""
        return cls(worker, {"overflowed": True})

    @classmethod
    def of_queue(cls, worker: str, waiting: int) -> WorkerReport:
        """So many requests wait inside the engine."""
        return cls(worker, {"waiting": waiting})


class Leave(NamedTuple):
    """The replica ends: its tickets, lease and stream go at once."""


class WaitingTicket(NamedTuple):
    """`seq` is its place in the queue, -1 where the store has never given it one."""

    id: str
    tenant: str
    n_in: int
    max: int
    seq: int
    avoid: list[str]


class RunningTicket(NamedTuple):
    """`number` is its dispatch. `weights` and `charged` by level, bottom up."""

    id: str
    tenant: str
    n_in: int
    max: int
    seq: int
    avoid: list[str]
    cached: int
    produced: int
    predicted: int
    worker: str
    number: int
    weights: list[float]
    charged: list[int]


class ShareState(NamedTuple):
    """A tenant or a group as the store has it in its call `at`. `lifted` is the part of `counter` that no replica which
    is here was charged; `lift_target` is that of a group's members, 0 for a tenant."""

    lifted: int
    counter: int
    lift_target: int
    at: int


class Remembered(NamedTuple):
    """What replies told, by path, and the first place in the queue and dispatch number that none of them spoke of."""

    shares: dict[str, ShareState]
    seq: int
    number: int


class Join(NamedTuple):
    """All that the replica holds and knows; it replaces what the pool knows of it. `peers`: replicas last seen. `book`:
    what it was charged, by path. `joined`: a join of it was applied before. `alone`: counters that were lifted while it
    was alone."""

    settings: str
    peers: int
    running: list[RunningTicket]
    waiting: list[WaitingTicket]
    book: dict[str, int]
    known: Remembered
    joined: bool
    alone: dict[str, int]

    def state(self) -> dict[str, Any]:
        """The one argument as which it is written."""
        tickets = {"running": _records(self.running), "waiting": _records(self.waiting)}
        return {**self._asdict(), **tickets, "known": self.known._asdict()}


Op = Submit | Charge | Finish | Cancel | Undo | Requeue | WorkerReport | Join | Leave

NAMES: dict[type[Op], str] = {
    Submit: "submit",
    Charge: "charge",
    Finish: "finish",
    Cancel: "cancel",
    Undo: "undo",
    Requeue: "requeue",
    WorkerReport: "worker",
    Join: "join",
    Leave: "leave",
}


def written(op: Op) -> list[Any]:
    return [NAMES[type(op)], op.state()] if isinstance(op, Join) else [NAMES[type(op)], *op]


def write_call(replica: str, batch: int, acked: int, seen: str, ops: Sequence[Op]) -> str:
    """The argument of `apply`. `acked`: the last batch that was answered; `seen`: the last entry of the stream."""
    call = {"replica": replica, "batch": batch, "acked": acked, "seen": seen, "ops": [written(op) for op in ops]}
    return orjson.dumps(call, default=list).decode()  # a named tuple inside another is a list


def begins_epoch(ops: Sequence[Op]) -> bool:
    return bool(ops) and isinstance(ops[0], Join)


def tickets_to_queue(ops: Sequence[Op]) -> list[str]:
    """The ids of the tickets that are queued, or refused, when `ops` are applied."""
    found = [op.id for op in ops if isinstance(op, Submit)]
    return found + [waiting.id for op in ops[:1] if isinstance(op, Join) for waiting in op.waiting]


def _records(tickets: Sequence[WaitingTicket | RunningTicket]) -> list[dict[str, Any]]:
    return [ticket._asdict() for ticket in tickets]


# -- the answer --------------------------------------------------------------------------------------------------------

REASONS = {
    "too_large": "the request exceeds the {} tokens of the largest worker",
    "no_large_worker": "no healthy worker is large enough for this request right now",
    "pool_queue_full": "the queue is full ({} requests wait)",
    "tenant_queue_full": "the tenant has {} requests waiting, its limit",
    "rate_limit": "the tenant is over its limit of {} requests a minute",
}


class Decision(NamedTuple):
    """What the store decided about a ticket that waits, in this epoch of its replica: a worker, or `refused` with a
    reason. `number` and `seq` are its dispatch and its place in the queue. `weights` are those it is priced at, bottom
    up."""

    ticket: str
    epoch: int
    number: int
    seq: int
    worker: str
    predicted: int
    weights: list[float]
    refused: str


@dataclass(frozen=True, slots=True)
class Reply:
    """`waiting` tickets and `replicas` of the whole pool. With `hold_s` or `more` a call is to follow, after so long or
    at once. `shares` that the call changed, by path. `queued`: the tickets' places in the queue."""

    epoch: int
    revision: int
    waiting: int
    replicas: int
    gathering: bool
    hold_s: float
    more: bool
    refusals: dict[str, Refusal]
    decisions: list[Decision]
    shares: dict[str, ShareState]
    queued: dict[str, int]


def read_reply(raw: list[Any]) -> Reply | None:
    """None: the store does not know this replica as it should; nothing was applied, and it must join."""
    if raw[0] != "ok":
        return None
    _, _, epoch, revision, waiting, replicas, gathering, hold_ms, more, refusals, grants, shares, queued = raw
    return Reply(
        epoch,
        revision,
        waiting,
        replicas,
        bool(gathering),
        hold_ms / 1000,
        bool(more),
        {ticket: _refusal(reason, *numbers) for ticket, reason, *numbers in refusals},
        [read_decision(grant) for grant in grants],
        {path: ShareState(*state) for path, *state in shares},
        dict(queued),
    )


def read_decision(text: str) -> Decision:
    grant = orjson.loads(text)
    return Decision(
        grant["ticket"],
        grant["epoch"],
        grant.get("number", -1),
        grant.get("seq", -1),
        grant.get("worker", ""),
        grant.get("predicted", 0),
        [float(weight) for weight in grant.get("weights", ())],
        grant.get("refused", ""),
    )


def refusal_of(decision: Decision) -> Refusal:
    return _refusal(decision.refused)


def _refusal(reason: str, *numbers: int) -> Refusal:
    message = REASONS[reason].format(*numbers) if reason in REASONS else reason
    return Refusal(reason, message, numbers[-1] / 1000 if reason == "rate_limit" else None)
