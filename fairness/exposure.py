"""What the bound rests on and configuration cannot know: how much was really in flight, and beyond its reservation.

The bound's U is taken over what may be in flight at once. That is the pool's capacity, unless the capacity was
lowered while more was running, an engine produced more than was predicted, or an input was larger or smaller than
estimated. Each is measured here in tokens, so that `bound` is always one that holds.
"""

from __future__ import annotations

from fairness.cost import CostFunction
from fairness.room import Capacity
from fairness.ticket import Ticket


class Exposure:
    def __init__(self) -> None:
        self.held = 0  # tokens of what runs: n_in + max(predicted, produced)
        self._most_held = 0  # its largest value right after a dispatch
        self._largest = 0  # the most that one ticket could hold
        self.overrun = 0  # the most tokens beyond their reservation that one member gained between two turns
        self._running = 0
        self.most_running = 0  # the most tickets in flight at once: each may be off by one counter unit of rounding
        self._input_refunded = False
        self._load = 0.0  # the dearest adapter load

    def dispatched(self, ticket: Ticket, capacity: Capacity) -> None:
        tokens = ticket.input_tokens + max(ticket.predicted, ticket.produced)
        self.held += tokens
        self._most_held = max(self._most_held, self.held)
        self._largest = max(self._largest, capacity.largest, tokens)
        self._load = max(self._load, ticket.load)
        self._running += 1
        self.most_running = max(self.most_running, self._running)

    def refunded_input(self) -> None:
        """Input was given back, so it can no longer count as charged before the last dispatch (see `most_rise`)."""
        self._input_refunded = True

    def ended(self, ticket: Ticket) -> None:
        self.held -= ticket.input_tokens + max(ticket.predicted, ticket.produced)
        self._running -= 1

    def most_rise(self, cost: CostFunction, capacity: Capacity) -> float:
        """U, in service units: the most that one member's service can rise, and another's fall, between two turns."""
        tokens = max(capacity.tokens, self._most_held) + self.overrun
        largest = max(capacity.largest, self._largest) + self.overrun
        longest_input = tokens if self._input_refunded else largest
        return cost.most_rise(tokens, largest, longest_input) + self._load
