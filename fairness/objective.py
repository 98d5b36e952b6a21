"""Early abort: turn away at once what cannot start in time, rather than let it wait in vain (S-LoRA, section 6).

The estimate is open to see: `interval_s`, the mean time between two turns while others wait, and `first_token_s`,
the mean time from a turn to its first token, both exponential averages over about the last 1 / `gain` tickets.
A ticket with n others before it is expected to start after n * interval_s + first_token_s. Of tickets that do not
stream nobody sees the first token, so they teach only the interval, and are let in by what streams taught.

An estimate refuses only while something under way can correct it. Where nobody waits and no first token is due, a
ticket is let in whatever the estimate says: else a pool that was slow once would be shut for ever, since who is refused
teaches nothing. Example: the objective is 1 s, and after an outage the first token is expected after 5 s. A request is
let in, and until its first token came all others are refused; it came after 0.1 s, so 4.51 s are expected now, and the
next one is let in. After 17 such requests the estimate is below 1 s.
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
        self._waits_since: float | None = None  # the last turn, or the head first did not fit
        self._due: dict[Ticket, float] = {}  # -> when they were dispatched whose first token is to come

    def estimate(self, ahead: int) -> float:
        """Seconds until the first token of a ticket that `ahead` others precede."""
        return ahead * self.interval_s + self.first_token_s

    def admit(self, ticket: Ticket, now: float, ahead: int) -> Refusal | None:
        """Refuse what would be late. What is admitted expires when it can no longer start in time."""
        expected = self.estimate(ahead)
        late = expected > self.ttft_s
        if late and (ahead or self._due):
            self.turned_away += 1
            return Refusal(
                "ttft_objective",
                f"the first token is expected after {expected:.1f} s; the objective is {self.ttft_s:g} s",
                expected - self.ttft_s,
            )
        ticket.deadline = min(ticket.deadline, now + self.ttft_s - (0.0 if late else self.first_token_s))
        return None

    def looked(self, ticket: Ticket | None, now: float, waiting: int) -> None:
        """Whose turn is it? That of `ticket`; or of nobody, because the head does not fit. `waiting` others wait on.

        To look when nobody had a turn tells since when someone waits. So the interval is measured even where nobody
        waits behind the head, because it is refused; and a queue that everybody left is not taken for a long turn."""
        if ticket is not None:
            self._took_turn(ticket, now)
        if not waiting:
            self._waits_since = None
        elif self._waits_since is None:
            self._waits_since = now

    def _took_turn(self, ticket: Ticket, now: float) -> None:
        if self._waits_since is not None:
            self.interval_s += self._gain * (now - self._waits_since - self.interval_s)
            self._waits_since = None
        if ticket.streams:
            self._due[ticket] = now

    def started(self, ticket: Ticket, now: float) -> None:
        """The first token of a ticket was seen."""
        if (dispatched := self._due.pop(ticket, None)) is not None:
            self.first_token_s += self._gain * (now - dispatched - self.first_token_s)

    def ended(self, ticket: Ticket) -> None:
        """A ticket is over, or back in the queue."""
        self._due.pop(ticket, None)
