"""Virtual Token Counter: the tenant that has received the least service is next (OSDI'24, section 4)."""

from __future__ import annotations

from fairness.policies.base import Policy


class Vtc(Policy):
    """With a `slack`, a ticket whose adapter is at hand may go first while its tenant is not more than that above
    the least counter. With 0 it is plain VTC, decision for decision."""

    def __init__(self, slack: float = 0.0) -> None:
        self.slack = slack
        self.name = f"vtc:slack={slack:g}" if slack else "vtc"
