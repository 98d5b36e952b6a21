"""Policies: what orders the tenants. One scheduler serves them all; a policy only says what it does otherwise.

Every policy here is "among tenants with a waiting request, the smallest counter, ties by the oldest head".
They differ in what is measured into the counter, how finely counters are told apart, whether a tenant that joins is
lifted, whether classes go first, and whether an arrival may be turned away. A new one is a file beside these and a
line in POLICIES.
"""

from __future__ import annotations

from fairness.policies.base import Policy
from fairness.policies.drr import Drr
from fairness.policies.fcfs import Fcfs
from fairness.policies.lcf import Lcf
from fairness.policies.priority import Priority
from fairness.policies.round_robin import RoundRobin
from fairness.policies.rpm import Rpm
from fairness.policies.vtc import Vtc

POLICIES: dict[str, type[Policy]] = {
    "vtc": Vtc,
    "fcfs": Fcfs,
    "lcf": Lcf,
    "rr": RoundRobin,
    "rpm": Rpm,
    "drr": Drr,
    "priority": Priority,
}
"""By the text before the colon in its spec."""


def parse_policy(spec: str) -> Policy:
    """A policy from its spec: `vtc`, `rpm:20`... (each says its `forms` and its `help`).

    Raises ValueError that names the accepted forms.
    """
    kind, _, argument = spec.partition(":")
    try:
        policy = POLICIES[kind].parse(argument) if kind in POLICIES else None
    except ValueError as error:
        raise ValueError(f"policy {spec!r}: {error}") from None
    if policy is None:
        raise ValueError(f"policy {spec!r} is unknown; expected one of {', '.join(_forms())}")
    return policy


def _forms() -> list[str]:
    """Of all policies, those without a number first."""
    return sorted((form for policy in POLICIES.values() for form in policy.forms), key=lambda form: ":" in form)


__all__ = ["POLICIES", "Policy", "Vtc", "parse_policy"]
