"""First come, first served: whatever has been received counts as equal, so the oldest head always goes first."""

from __future__ import annotations

from typing import ClassVar

from fairness.policies.base import ALL_EQUAL, Policy


class Fcfs(Policy):
    forms: ClassVar[tuple[str, ...]] = ("fcfs",)
    help: ClassVar[str] = "first come, first served, whoever sent it"
    spec = "fcfs"
    bounded = False
    tree = False
    quantum = ALL_EQUAL
