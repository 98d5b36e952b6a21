"""CLOSED: the store is lost and the configuration says not to go on without it."""

from __future__ import annotations

from fairness import Refusal
from gateway.pools.shared.holdings import Held
from gateway.pools.shared.modes.port import ReplicaState
from gateway.pools.shared.modes.told import Told

RETRY_AFTER = 5.0
STORE_LOST = Refusal("store_lost", "the store of the queues cannot be reached", RETRY_AFTER)


class Refusing(Told):
    """What comes is refused. What runs is served, and what waits keeps waiting for the store, until its own timeout."""

    name = "closed"

    def __init__(self, state: ReplicaState) -> None:
        super().__init__(state)
        for held in state.desk.held.waiting():
            held.answer(None)  # whether it was queued need not be known any more

    async def submit(self, held: Held) -> Refusal | None:
        return STORE_LOST
