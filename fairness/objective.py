"""Early abort: turn away at once what cannot start in time, rather than let it wait in vain (S-LoRA, section 6).

The estimate is open to see: `interval_s`, the mean time between two turns while others wait, and `first_token_s`,
the mean time from a turn to its first token, both exponential averages over about the last 1 / `gain` tickets.
A ticket with n others before it is expected to start after n * interval_s + first_token_s.
"""

from __future__ import annotations

from fairness.ticket import Refusal, Ticket


class Objective:
    """A time to first token, in seconds, that a pool owes its tenants.

    Raises ValueError when it is not above 0.
    """

    def __init__(self, ttft_s: float, gain: float = 0.1) -> None:
        if not ttft_s > 0:
            raise ValueError(f"ttft_s is {ttft_s!r}; expected seconds above 0")
        self.ttft_s = ttft_s
        self.interval_s = 0.0
        self.first_token_s = 0.0
        self.turned_away = 0
        self._gain = gain
        self._last_turn: float | None = None  # of a turn that left others waiting
        self._dispatched: dict[Ticket, float] = {}

    def estimate(self, ahead: int) -> float:
        """Seconds until the first token of a ticket that `ahead` others precede."""
        return ahead * self.interval_s + self.first_token_s

    def admit(self, ticket: Ticket, now: float, ahead: int) -> Refusal | None:
        """Refuse what would be late. What is admitted expires when it can no longer start in time."""
        expected = self.estimate(ahead)
        if expected > self.ttft_s:
            self.turned_away += 1
            return Refusal(
                "ttft_objective",
                f"the first token is expected after {expected:.1f} s; the objective is {self.ttft_s:g} s",
                expected - self.ttft_s,
            )
        ticket.deadline = min(ticket.deadline, now + self.ttft_s - self.first_token_s)
        return None

    def dispatched(self, ticket: Ticket, now: float, still_waiting: int) -> None:
        """A ticket took its turn, `still_waiting` others did not."""
        if self._last_turn is not None:
            self.interval_s += self._gain * (now - self._last_turn - self.interval_s)
        self._last_turn = now if still_waiting else None
        self._dispatched[ticket] = now

    def started(self, ticket: Ticket, now: float) -> None:
        """The first token of a ticket was seen."""
        if (dispatched := self._dispatched.pop(ticket, None)) is not None:
            self.first_token_s += self._gain * (now - dispatched - self.first_token_s)

    def ended(self, ticket: Ticket) -> None:
        """A ticket is over, or back in the queue."""
        self._dispatched.pop(ticket, None)
