"""Strict priority classes, each a fair queue of its own, with aging: no class starves."""

from __future__ import annotations

from typing import ClassVar

from fairness.policies.base import Policy, whole_number


class Priority(Policy):
    """The first class with a ticket that waits goes first; one that others have passed `aging` times in a row has
    the next turn. With k classes, each that waits has a turn at least every aging + k - 1 turns."""

    forms: ClassVar[tuple[str, ...]] = ("priority:AGING",)
    help: ClassVar[str] = "strict classes, VTC within each; a class passed over AGING times in a row has the next turn"
    not_shared = "priority classes are kept by each gateway alone; expected another policy, like vtc"

    def __init__(self, aging: int) -> None:
        self.spec = f"priority:{aging}"
        self.aging = aging

    @classmethod
    def parse(cls, argument: str) -> Policy:
        form = "priority:AGING with the turns after which a lower class goes first, like priority:16"
        return cls(whole_number(argument, form))
