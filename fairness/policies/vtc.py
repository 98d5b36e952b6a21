"""Virtual Token Counter: the tenant that has received the least service is next (OSDI'24, algorithm 2)."""

from __future__ import annotations

from fairness.policies.base import Policy


class Vtc(Policy):
    name = "vtc"
