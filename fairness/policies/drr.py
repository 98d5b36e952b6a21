"""Deficit round robin (Shreedhar and Varghese, SIGCOMM'95) for requests whose length shows only as they run.

A tenant's counter, divided by the quantum, is the number of rounds it has used up: what it received beyond its
quantum (its deficit, negative here because it is charged afterwards) keeps it out of as many rounds. Within a round
everyone has a turn, the oldest head first. So it is VTC that looks at whole rounds only, and its bound is wider by
one quantum.
"""

from __future__ import annotations

from fairness.policies.base import Policy


class Drr(Policy):
    def __init__(self, quantum: int) -> None:
        """`quantum` in service units / weight, at least 1."""
        self.name = f"drr:{quantum}"
        self.quantum = 1000 * quantum

    @property
    def allowance(self) -> float:
        return self.quantum / 1000
