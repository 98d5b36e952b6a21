"""JOINING: the store is being told everything; nothing is dispatched until it has answered."""

from __future__ import annotations

from gateway.pools.shared.desk import Desk
from gateway.pools.shared.holdings import Held
from gateway.pools.shared.modes.told import Told
from gateway.pools.shared.protocol import Join, Op, RunningTicket, WaitingTicket


class Joining(Told):
    """What comes up meanwhile is told with the call after the join."""

    name = "joining"

    def everything(self) -> list[Op]:
        """The batch that begins an epoch."""
        desk = self._state.desk
        join = Join(
            self._state.settings.text,
            desk.known.peers,
            [_running(held, desk) for held in desk.held.running()],
            [_waiting(held) for held in desk.held.waiting()],
            desk.book.totals(),
            desk.known.remembered(),
            desk.link.joins > 0,
            desk.known.lifted_alone(),
        )
        return [join, *self._state.workers.reports()]


def _waiting(held: Held) -> WaitingTicket:
    t = held.ticket
    return WaitingTicket(held.id, t.tenant, t.input_tokens, t.max_tokens, held.seq, sorted(t.avoid))


def _running(held: Held, desk: Desk) -> RunningTicket:
    t = held.ticket
    return RunningTicket(
        *_waiting(held),
        t.cached_tokens,
        t.produced,
        t.predicted,
        t.worker,
        held.number,
        desk.book.weights(t),
        desk.book.charged(t),
    )
