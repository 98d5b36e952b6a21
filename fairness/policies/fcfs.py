"""First come, first served: whatever has been received counts as equal, so the oldest head always goes first."""

from __future__ import annotations

from fairness.policies.base import Policy


class Fcfs(Policy):
    name = "fcfs"
    tree = False
    quantum = 2**53  # above every counter
