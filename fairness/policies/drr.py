"""Deficit round robin (Shreedhar and Varghese, SIGCOMM'95) for requests whose length shows only as they run.

A tenant's counter, divided by the quantum, is the number of rounds it has used up: what it received beyond its
quantum (its deficit, negative here because it is charged afterwards) keeps it out of as many rounds. Within a round
everyone has a turn, the oldest head first. So it is VTC that looks at whole rounds only, and its bound is wider by
one quantum.
"""

from __future__ import annotations

from typing import ClassVar

from fairness.policies.base import Policy, whole_number


class Drr(Policy):
    forms: ClassVar[tuple[str, ...]] = ("drr:QUANTUM",)
    help: ClassVar[str] = "deficit round robin: VTC that tells counters apart by whole rounds of QUANTUM service units"

    def __init__(self, quantum: int) -> None:
        """`quantum` in service units / weight, at least 1."""
        self.spec = f"drr:{quantum}"
        self.quantum = 1000 * quantum

    @classmethod
    def parse(cls, argument: str) -> Policy:
        return cls(whole_number(argument, "drr:QUANTUM with a whole number of service units, like drr:500"))

    @property
    def allowance(self) -> float:
        return self.quantum / 1000
