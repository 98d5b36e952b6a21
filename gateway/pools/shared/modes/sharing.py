"""SHARED: every decision is the store's."""

from __future__ import annotations

from fairness import State
from gateway.pools.shared.modes.port import ReplicaState
from gateway.pools.shared.modes.told import Told
from gateway.pools.shared.protocol import Decision, Undo


class Sharing(Told):
    """One epoch of it.

    A decision is obeyed in the epoch it was made in and within the lease. Example: a lease of 5 s was renewed by a call
    that was sent at 100 s. The store got it later, so it frees what this replica runs at 105 s or after. A gateway that
    is paused at 104 s and reads a grant at 106 s finds its lease at its end and joins anew: the slot that the grant
    stands for may be another replica's by now. The join begins another epoch, so that grants of the earlier one that
    are still on their way change nothing.
    """

    name = "shared"

    def __init__(self, state: ReplicaState, epoch: int) -> None:
        super().__init__(state)
        self._epoch = epoch

    def heard(self, decision: Decision) -> None:
        if decision.epoch != self._epoch:
            return
        state = self._state
        held = state.desk.held.find(decision.ticket)
        if state.clock() >= state.link.lease_until:
            state.link.join_anew()
        elif held is None:
            state.link.tell(Undo(decision.ticket))
        elif held.ticket.state is State.WAITING:
            state.desk.decided(held, decision)
