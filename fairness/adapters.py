"""A room whose workers hold a few adapters each, and bring others in when a request asks for them.

An adapter that nobody uses may be evicted, the longest unused first. A policy with slack asks which requests find
theirs at hand. The strict head has the first claim: while it waits no other ticket makes a slot busy that is free,
so the next one that frees is its own (DESIGN section 3, "Pick").
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable, Mapping

from mypy_extensions import mypyc_attr

from fairness.room import Obstacle, Worker, WorkerRoom
from fairness.ticket import LawError, Ticket


@mypyc_attr(allow_interpreted_subclasses=True)
class AdapterRoom(WorkerRoom):
    """`adapter_slots` is the number of adapters that each worker holds at once: 1 where nothing is said."""

    def __init__(self, workers: list[Worker], adapter_slots: Mapping[str, int]) -> None:
        super().__init__(workers)
        self._slots = dict(adapter_slots)
        self._users: defaultdict[str, OrderedDict[str, int]] = defaultdict(OrderedDict)
        self._claim = ""

    def adapters(self, worker_id: str) -> list[str]:
        """Those that a worker holds, the longest unused first."""
        return list(self._users[worker_id])

    # -- what a policy with slack asks -------------------------------------------------------------------------

    def resident(self, ticket: Ticket) -> bool:
        return any(self._at_hand(worker, ticket) for worker in super().fitting(ticket))

    def obstacle(self, ticket: Ticket) -> Obstacle:
        if not super().fitting(ticket):
            return Obstacle.ROOM
        return Obstacle.NONE if self.fitting(ticket) else Obstacle.ADAPTER

    def hold(self, ticket: Ticket) -> None:
        self._claim = ticket.adapter

    # -- the room ----------------------------------------------------------------------------------------------

    def fitting(self, ticket: Ticket) -> list[Worker]:
        """Workers that hold the adapter before those that would have to bring it in."""
        workers = super().fitting(ticket)
        at_hand = [worker for worker in workers if self._at_hand(worker, ticket)]
        return at_hand or [worker for worker in workers if self._has_slot(worker, ticket)]

    def take(self, ticket: Ticket, worker_id: str) -> None:
        super().take(ticket, worker_id)
        if ticket.adapter:
            self._use(worker_id, ticket.adapter)

    def release(self, ticket: Ticket) -> None:
        super().release(ticket)
        if ticket.adapter:
            users = self._users[ticket.worker]
            users[ticket.adapter] -= 1
            _evict(users, self._slots_of(ticket.worker))

    def check_integrity(self, in_flight: Iterable[Ticket]) -> None:
        tickets = list(in_flight)
        super().check_integrity(tickets)
        used = Counter([(ticket.worker, ticket.adapter) for ticket in tickets if ticket.adapter])
        for worker_id, users in self._users.items():
            if len(users) > self._slots_of(worker_id) and 0 in users.values():
                raise LawError(f"worker {worker_id} holds more adapters than it has slots")
            if any(used[worker_id, adapter] != count for adapter, count in users.items()):
                raise LawError(f"worker {worker_id} counts other users of its adapters than run there")

    # -- inside ------------------------------------------------------------------------------------------------

    def _slots_of(self, worker_id: str) -> int:
        return self._slots.get(worker_id, 1)

    def _at_hand(self, worker: Worker, ticket: Ticket) -> bool:
        users = self._users[worker.id].get(ticket.adapter)
        if not ticket.adapter:
            return True
        return users is not None and (users > 0 or self._claim in ("", ticket.adapter))

    def _has_slot(self, worker: Worker, ticket: Ticket) -> bool:
        users = self._users[worker.id]
        free = len(users) < self._slots_of(worker.id) or 0 in users.values()
        return free and self._claim in ("", ticket.adapter)

    def _use(self, worker_id: str, adapter: str) -> None:
        users = self._users[worker_id]
        if adapter not in users:
            _evict(users, self._slots_of(worker_id) - 1)
        users[adapter] = users.pop(adapter, 0) + 1
        if adapter == self._claim:
            self._claim = ""


def _evict(users: OrderedDict[str, int], slots: int) -> None:
    """Down to as many adapters as there are slots, or as are in use: what was taken over may be more."""
    if len(users) > slots:
        idle = [adapter for adapter, count in users.items() if count == 0]
        for adapter in idle[: len(users) - slots]:
            del users[adapter]
