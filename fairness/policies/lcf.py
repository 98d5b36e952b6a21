"""Least Counter First: VTC that forgets the lift, so idle time is hoarded as credit (OSDI'24, section 5.1)."""

from __future__ import annotations

from typing import ClassVar

from fairness.policies.base import Policy


class Lcf(Policy):
    forms: ClassVar[tuple[str, ...]] = ("lcf",)
    help: ClassVar[str] = "least counter first: VTC without the lift, so that idle time is hoarded as credit"
    spec = "lcf"
    bounded = False
    lifts = False
