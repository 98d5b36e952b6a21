"""Strict priority classes, each a fair queue of its own, with aging: no class starves."""

from __future__ import annotations

from fairness.policies.base import Policy


class Priority(Policy):
    """The first class with a ticket that waits goes first; one that others have passed `aging` times in a row has
    the next turn. With k classes, each that waits has a turn at least every aging + k - 1 turns."""

    def __init__(self, aging: int) -> None:
        self.name = f"priority:{aging}"
        self.aging = aging
