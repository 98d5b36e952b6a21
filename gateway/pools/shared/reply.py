"""The answer to a batch, as apply.lua gives it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

from fairness import Refusal

REASONS = {
    "too_large": "the request exceeds the {} tokens of the largest worker",
    "no_large_worker": "no healthy worker is large enough for this request right now",
    "pool_queue_full": "the queue is full ({} requests wait)",
    "tenant_queue_full": "the tenant has {} requests waiting, its limit",
    "rate_limit": "the tenant is over its limit of {} requests a minute",
}


class Turn(NamedTuple):
    """What the store decided about a ticket: a worker, or `refused` with a reason. `weights` are those it is priced
    at, bottom up."""

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
    """`shares`: path, lifted, counter, lift target, in thousandths, and the number of the pool's call. `queued`: the
    tickets' places in the queue."""

    epoch: int
    revision: int
    waiting: int
    replicas: int
    gathering: bool
    hold_s: float
    more: bool
    refusals: dict[str, Refusal]
    turns: list[Turn]
    shares: list[tuple[str, int, int, int, int]]
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
        [read_turn(grant) for grant in grants],
        [(path, lifted, counter, floor, at) for path, lifted, counter, floor, at in shares],
        dict(queued),
    )


def read_turn(text: str) -> Turn:
    grant = json.loads(text)
    return Turn(
        grant["ticket"],
        grant["epoch"],
        grant.get("number", -1),
        grant.get("seq", -1),
        grant.get("worker", ""),
        grant.get("predicted", 0),
        [float(weight) for weight in grant.get("weights", ())],
        grant.get("refused", ""),
    )


def refusal_of(turn: Turn) -> Refusal:
    return _refusal(turn.refused)


def _refusal(reason: str, *numbers: int) -> Refusal:
    message = REASONS[reason].format(*numbers) if reason in REASONS else reason
    return Refusal(reason, message, numbers[-1] / 1000 if reason == "rate_limit" else None)
