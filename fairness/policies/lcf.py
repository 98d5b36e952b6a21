"""Least Counter First: VTC that forgets the lift, so idle time is hoarded as credit (OSDI'24, section 5.1)."""

from __future__ import annotations

from fairness.policies.base import Policy


class Lcf(Policy):
    name = "lcf"
    lifts = False
