"""Policies: what orders the tenants. One scheduler serves them all; a policy only says what it does otherwise.

Every policy here is "among tenants with a waiting request, the smallest counter, ties by the oldest head".
They differ in what is measured into the counter, how finely counters are told apart, whether a tenant that joins is
lifted, whether classes go first, and whether an arrival may be turned away.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite

from fairness.policies.base import Policy
from fairness.policies.drr import Drr
from fairness.policies.fcfs import Fcfs
from fairness.policies.lcf import Lcf
from fairness.policies.priority import Priority
from fairness.policies.round_robin import RoundRobin
from fairness.policies.rpm import Rpm
from fairness.policies.vtc import Vtc

POLICIES: dict[str, Callable[[], Policy]] = {"vtc": Vtc, "fcfs": Fcfs, "lcf": Lcf, "rr": RoundRobin}
_NUMBERED: dict[str, tuple[Callable[[int], Policy], str]] = {
    "rpm": (Rpm, "rpm:LIMIT with a whole number of requests a minute, like rpm:20"),
    "drr": (Drr, "drr:QUANTUM with a whole number of service units, like drr:500"),
    "priority": (Priority, "priority:AGING with the turns after which a lower class goes first, like priority:16"),
}


def parse_policy(spec: str) -> Policy:
    """`vtc`, `vtc:slack=S` (service units a ticket may be ahead for the sake of its adapter), `fcfs`, `lcf`, `rr`,
    `rpm:LIMIT` (accepted requests a minute and tenant), `drr:QUANTUM` (service units), `priority:AGING` (turns).

    Raises ValueError that names the accepted forms.
    """
    name, _, argument = spec.partition(":")
    if name in _NUMBERED:
        make, form = _NUMBERED[name]
        if not argument.isdecimal() or int(argument) < 1:
            raise ValueError(f"policy {spec!r}: write {form}")
        return make(int(argument))
    if argument.startswith("slack=") and name == "vtc":
        return Vtc(_slack(spec, argument.removeprefix("slack=")))
    if name not in POLICIES or argument:
        forms = ", ".join((*POLICIES, "vtc:slack=S", "rpm:LIMIT", "drr:QUANTUM", "priority:AGING"))
        raise ValueError(f"policy {spec!r} is unknown; expected one of {forms}")
    return POLICIES[name]()


def _slack(spec: str, text: str) -> float:
    try:
        slack = float(text)
    except ValueError:
        slack = -1.0
    if not (isfinite(slack) and slack >= 0):
        raise ValueError(f"policy {spec!r}: write vtc:slack=S with a number of service units of at least 0")
    return slack


__all__ = ["POLICIES", "Drr", "Fcfs", "Lcf", "Policy", "Priority", "RoundRobin", "Rpm", "Vtc", "parse_policy"]
