"""What a shared pool looks like, from what the store tells of it (inspect.lua): for metrics and people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fairness import MILLI, Capacity, Snapshot, State, TenantState, Ticket
from gateway.pools.settings import Settings


class View:
    """`data` is the JSON that inspect.lua returns."""

    def __init__(self, settings: Settings, data: dict[str, Any]) -> None:
        self._settings = settings
        self._data = data

    def worker(self, worker_id: str) -> dict[str, Any] | None:
        return next((worker for worker in self._data["workers"] if worker["id"] == worker_id), None)

    @property
    def gap(self) -> float:
        return float(self._data["gap"]) / MILLI

    def capacity(self) -> Capacity:
        workers = self._data["workers"]
        healthy = [worker for worker in workers if worker["healthy"]]
        return Capacity(
            sum(worker["tokens"] for worker in healthy),
            sum(worker["slots"] for worker in healthy),
            max((worker["tokens"] for worker in healthy or workers), default=0),
        )

    def bound(self) -> float:
        """As `Scheduler.bound` has it, over what all replicas together had in flight."""
        data, capacity, policy = self._data, self.capacity(), self._settings.policy
        tokens = max(capacity.tokens, data["most_held"]) + data["overrun"]
        largest = max(capacity.largest, data["largest"]) + data["overrun"]
        longest_input = tokens if data["input_refunded"] else largest
        most_rise = self._settings.measure().most_rise(tokens, largest, longest_input)
        return most_rise / float(data["least_weight"]) + policy.allowance + float(data["owed"]) / MILLI

    def crossed(self) -> bool:
        """The gap is above the bound, by more than rounding explains: a thousandth for each ticket in flight."""
        return self.gap > self.bound() + int(self._data["most_running"]) / MILLI

    def snapshot(self, held: Iterable[Ticket]) -> Snapshot:
        """Gap and bound of the whole pool, counters of its groups; waiting and running are the tickets `held` here."""
        own = _count(held)
        shares = self._data["shares"]
        states = {
            path: TenantState(float(share["counter"]) / MILLI, float(share["weight"]), *own.pop(path, (0, 0)))
            for path, share in shares.items()
            if path
        }
        states |= {path: TenantState(0.0, self._weight(path), *counts) for path, counts in own.items()}
        return Snapshot(
            self._settings.policy.spec,
            sum(state.waiting for state in states.values()),
            sum(state.running for state in states.values()),
            {path: state for path, state in states.items() if not path.endswith("/")},
            float(shares[""]["floor"]) / MILLI if "" in shares else 0.0,
            self.gap,
            self.bound(),
            self.capacity(),
            {path: state for path, state in states.items() if path.endswith("/")},
        )

    def _weight(self, path: str) -> float:
        return self._settings.weights.get(path.removesuffix("/"), self._settings.default_weight)


def nothing_yet(settings: Settings) -> View:
    """Before the store has told anything."""
    workers = [{**worker._asdict(), "running": 0, "reserved": 0, "healthy": False} for worker in settings.workers]
    numbers = dict.fromkeys(("gap", "owed", "most_held", "overrun", "largest", "most_running"), 0)
    least = min([settings.default_weight, *settings.weights.values()])
    return View(settings, {**numbers, "input_refunded": False, "least_weight": least, "workers": workers, "shares": {}})


def _count(held: Iterable[Ticket]) -> dict[str, tuple[int, int]]:
    """Waiting and running tickets by tenant."""
    counts: dict[str, tuple[int, int]] = {}
    for ticket in held:
        waiting, running = counts.get(ticket.tenant, (0, 0))
        here = (ticket.state is State.WAITING, ticket.state is State.RUNNING)
        counts[ticket.tenant] = (waiting + here[0], running + here[1])
    return counts
