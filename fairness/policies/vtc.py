"""Virtual Token Counter: the tenant that has received the least service is next (OSDI'24, section 4)."""

from __future__ import annotations

from math import isfinite
from typing import ClassVar

from fairness.policies.base import Policy


class Vtc(Policy):
    """With a `slack`, a ticket whose adapter is at hand may go first while its tenant is not more than that above
    the least counter. With 0 it is plain VTC, decision for decision."""

    forms: ClassVar[tuple[str, ...]] = ("vtc", "vtc:slack=S")
    help: ClassVar[str] = (
        "the tenant that has received the least service goes first; one whose adapter is at hand may be S service "
        "units ahead of it"
    )

    def __init__(self, slack: float = 0.0) -> None:
        """`slack` in service units / weight, at least 0."""
        self.slack = slack
        self.spec = f"vtc:slack={repr(slack).removesuffix('.0')}" if slack else "vtc"
        if slack:
            self.not_shared = "which adapters a worker holds is known to each gateway alone; expected vtc"

    @classmethod
    def parse(cls, argument: str) -> Policy | None:
        if not argument.startswith("slack="):
            return None if argument else cls()
        return cls(_slack(argument.removeprefix("slack=")))


def _slack(text: str) -> float:
    try:
        slack = float(text)
    except ValueError:
        slack = -1.0
    if not (isfinite(slack) and slack >= 0):
        raise ValueError("write vtc:slack=S with a number of service units of at least 0")
    return slack
