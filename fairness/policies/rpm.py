"""Requests per minute: FCFS that turns arrivals away over a limit (OSDI'24, section 5.1)."""

from __future__ import annotations

from fairness.limiter import SlidingWindow
from fairness.policies.fcfs import Fcfs
from fairness.ticket import Refusal, Ticket


class Rpm(Fcfs):
    def __init__(self, limit: int) -> None:
        self.name = f"rpm:{limit}"
        self._window = SlidingWindow(limit, 60.0)

    def admit(self, ticket: Ticket, now: float) -> Refusal | None:
        wait = self._window.admit(ticket.tenant, now)
        if wait is None:
            return None
        limit = self._window.limit
        return Refusal("rate_limit", f"tenant {ticket.tenant} is over its limit of {limit} requests a minute", wait)
