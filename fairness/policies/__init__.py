"""Policies: what orders the tenants. One scheduler serves them all; a policy only says what moves a counter.

Every policy here is "among tenants with a waiting request, the smallest counter, ties by the oldest head".
They differ in what is measured into the counter, in whether a tenant that joins is lifted, and in whether an
arrival may be turned away.
"""

from __future__ import annotations

from collections.abc import Callable

from fairness.policies.base import Policy
from fairness.policies.fcfs import Fcfs
from fairness.policies.lcf import Lcf
from fairness.policies.round_robin import RoundRobin
from fairness.policies.rpm import Rpm
from fairness.policies.vtc import Vtc

POLICIES: dict[str, Callable[[], Policy]] = {"vtc": Vtc, "fcfs": Fcfs, "lcf": Lcf, "rr": RoundRobin}


def parse_policy(spec: str) -> Policy:
    """`vtc`, `fcfs`, `lcf`, `rr`, or `rpm:LIMIT` (accepted requests a minute and tenant).

    Raises ValueError that names the accepted forms.
    """
    name, _, argument = spec.partition(":")
    if name == "rpm":
        if not argument.isdecimal() or int(argument) < 1:
            raise ValueError(f"policy {spec!r}: write rpm:LIMIT with a whole number of requests a minute, like rpm:20")
        return Rpm(int(argument))
    if name not in POLICIES or argument:
        raise ValueError(f"policy {spec!r} is unknown; expected one of {', '.join(POLICIES)}, rpm:LIMIT")
    return POLICIES[name]()


__all__ = ["POLICIES", "Fcfs", "Lcf", "Policy", "RoundRobin", "Rpm", "Vtc", "parse_policy"]
