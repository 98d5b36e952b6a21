"""Requests per minute: FCFS that turns arrivals away over a limit (OSDI'24, section 5.1)."""

from __future__ import annotations

from math import ceil
from typing import ClassVar

from fairness.limiter import SlidingWindow
from fairness.policies.base import Policy, whole_number
from fairness.policies.fcfs import Fcfs
from fairness.ticket import Refusal, Ticket


class Rpm(Fcfs):
    forms: ClassVar[tuple[str, ...]] = ("rpm:LIMIT",)
    help: ClassVar[str] = "fcfs that accepts LIMIT requests of each tenant in any minute and turns the rest away"

    def __init__(self, limit: int) -> None:
        self.spec = f"rpm:{limit}"
        self.rpm = limit
        self._window = SlidingWindow(limit, 60.0)

    @classmethod
    def parse(cls, argument: str) -> Policy:
        return cls(whole_number(argument, "rpm:LIMIT with a whole number of requests a minute, like rpm:20"))

    def admit(self, ticket: Ticket, now: float) -> Refusal | None:
        wait = self._window.admit(ticket.tenant, now)
        if wait is None:
            return None
        return Refusal("rate_limit", f"tenant {ticket.tenant} is over its limit of {self.rpm} requests a minute", wait)

    def unlimited(self) -> Policy:
        return Fcfs()

    def part(self, parts: int) -> Policy:
        return Rpm(ceil(self.rpm / parts))
