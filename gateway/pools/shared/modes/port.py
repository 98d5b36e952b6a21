"""The port to a mode, and what a replica keeps whatever mode it is in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from fairness import Predictor, Refusal, Snapshot, Ticket, Worker
from gateway.pools.drain_rate import DrainRate
from gateway.pools.shared.desk import Desk
from gateway.pools.shared.holdings import Held
from gateway.pools.shared.link import Link
from gateway.pools.shared.protocol import Decision
from gateway.pools.shared.settings import SharedSettings
from gateway.pools.shared.view import View
from gateway.pools.shared.workers import Workers


@dataclass(slots=True)
class ReplicaState:
    """What one replica of a pool holds and knows: tickets, their book and what is known of counters are at the `desk`.
    A mode may end at any moment, and the next one begins from here. `settings` are those in force, `waiting` the
    tickets of the whole pool, as last heard. `clock` in seconds, that of ticket deadlines.

    What is here ends with the process. Example of what such a death costs: a replica runs 6 requests on 8 slots, with
    leases of 5 s, and dies. The other replicas have 2 slots for up to 5 s, until one of their calls finds the lease at
    its end: then waiting tickets leave, the 6 slots are free, and tenants stay charged for the tokens last reported.
    At most `flush_s` (20 ms) of tokens were not, perhaps one a request: at a price of 2 for output and weight 1, 12,000
    thousandths. Had it only been paused, its 6 requests would still run while the others fill 8 slots, 14 on 8, until
    they end; what they are charged is told with its next join.
    """

    pool: str
    settings: SharedSettings
    predictor: Predictor
    link: Link
    desk: Desk
    workers: Workers
    view: View
    drain_rate: DrainRate
    clock: Callable[[], float]
    waiting: int = 0


class Mode(Protocol):
    """What may happen to a pool (`gateway.pools.port.Pool` says more), as far as it depends on who decides. `name` is
    how the pool stands (`Standing.mode`)."""

    name: str

    async def submit(self, held: Held) -> Refusal | None:
        """A ticket came. With a refusal it is let go of."""

    def charge(self, ticket: Ticket, produced: int) -> None: ...

    def correct(self, ticket: Ticket, input_tokens: int, cached_tokens: int) -> None: ...

    def finish(self, ticket: Ticket) -> None: ...

    def leave(self, ticket: Ticket, *, consumed: bool) -> None:
        """`consumed` only of one that runs."""

    def requeue(self, ticket: Ticket) -> None: ...

    def overflowed(self, worker: str) -> None: ...

    def set_health(self, worker: str, healthy: bool) -> None: ...

    def set_size(self, worker: str, slots: int, kv_tokens: int) -> None: ...

    def engine_waiting(self, worker: str, waiting: int) -> None: ...

    def heard(self, decision: Decision) -> None:
        """The store has decided."""

    def retry_after(self) -> float: ...

    def snapshot(self) -> tuple[Snapshot, list[Worker]]: ...

    def crossings(self) -> int:
        """That were seen here and not by the store."""

    def close(self) -> None:
        """Refuse what waits."""

    def end(self) -> None:
        """Another mode follows: what only this one knows goes into the state."""
