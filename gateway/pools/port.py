"""The port to a pool, whatever keeps its state: this process (local.py), or a store that gateways share (shared/).

A pool is the workers that serve the same models, with the one queue in front of them. A request is a ticket there: it
is queued, granted a worker when its turn comes, charged for its tokens as they are seen, and over when it is finished
or leaves. The law (`fairness`) decides whose turn it is; the room of the workers decides when there is one.

The port is shaped for a queue that lives elsewhere: a ticket goes in, a grant comes back later, and everything else
is a report that nobody waits for. `charge` carries totals and `leave` may be repeated, so a report that arrives twice
changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple, Protocol

from fairness import Grant, Refusal, Snapshot, Ticket, Worker

EXPIRED = Refusal("queue_timeout", "no turn came before the queue timeout")
TOO_LARGE_NOW = Refusal("no_large_worker", "no healthy worker is large enough for this request right now")
CLOSED = Refusal("draining", "the gateway is shutting down")
Turn = asyncio.Future[Grant | Refusal]


class Pool(Protocol):
    """What the hot path asks of a pool, and what a gateway tells it of its workers. Times in seconds on the clock of
    ticket deadlines. `on_failure` is told which worker failed a request."""

    name: str
    on_failure: Callable[[str], None]

    def start(self) -> None:
        """Begin to work, on the running event loop."""

    async def submit(self, ticket: Ticket) -> Refusal | None:
        """Queue a ticket, or say why not."""

    async def turn(self, ticket: Ticket) -> Grant | Refusal:
        """Wait for the turn of a queued ticket; a Refusal when its deadline passed or the pool closed."""

    def charge(self, ticket: Ticket, produced: int) -> None:
        """`produced` output tokens in all have been seen."""

    def correct(self, ticket: Ticket, input_tokens: int, cached_tokens: int) -> None:
        """The engine counted the input."""

    def finish(self, ticket: Ticket) -> None:
        """The ticket was served to its end."""

    def leave(self, ticket: Ticket, *, consumed: bool) -> None:
        """The ticket is over, wherever it stands; nothing happens when it has ended. With `consumed` a running one
        stays charged for what was seen of it, without it the dispatch is undone as if it had never been."""

    def requeue(self, ticket: Ticket) -> None:
        """Undo the dispatch and wait again, in the old place."""

    def overflowed(self, worker: str) -> None:
        """The worker refused a request for want of room."""

    def failed(self, worker: str, *, reached: bool) -> None:
        """The worker failed a request; `reached` is false when it could not even be connected to."""

    def healthy(self, *, besides: frozenset[str] = frozenset()) -> bool:
        """Is there a healthy worker, other than those named?"""

    def retry_after(self) -> float:
        """Seconds after which a refused client may find room."""

    def set_health(self, worker: str, healthy: bool) -> None:
        """A probe found the worker so."""

    def set_size(self, worker: str, slots: int, kv_tokens: int) -> None:
        """The worker's room became known."""

    def engine_waiting(self, worker: str, waiting: int) -> None:
        """So many requests wait inside the engine."""

    def snapshot(self) -> tuple[Snapshot, list[Worker]]:
        """Queue, counters and workers, for people and metrics."""

    def crossings(self) -> int:
        """Times that the counters of two waiting tenants came further apart than the bound."""

    def standing(self) -> Standing:
        """Where the pool's state lives right now."""

    def replica_book(self) -> ReplicaBook | None:
        """This gateway's part of counters that it shares with others; None where it shares them with nobody."""

    def close(self) -> None:
        """Refuse what waits and what still comes."""

    async def end(self) -> None:
        """Let go of everything outside this process. Comes after `close`."""


class Standing(NamedTuple):
    """`mode`: `own` (this process keeps the state by itself), `shared`, `joining`, `alone` (the store is lost, requests
    are served with a share of the room) or `closed` (it is lost, and they are refused). `replicas` were last seen.
    `stale`: why this gateway's file is not the configuration in force; empty when it is."""

    mode: str = "own"
    replicas: int = 1
    stale: str = ""


class ReplicaBook(NamedTuple):
    """`charged`: by path, in thousandths of service / weight. The store has the same under the id `replica`, as soon as
    all has been told."""

    replica: str
    charged: dict[str, int]


def resolve(turn: Turn, result: Grant | Refusal) -> None:
    """The turn has come, or never will; who waited for it may be gone."""
    if not turn.done():
        turn.set_result(result)
