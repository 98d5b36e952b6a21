"""The default comparison: VTC against FCFS, RPM and LCF where they differ, simulated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from loadgen.judge.results import Comparison
from loadgen.progress import Progress
from loadgen.simulator.simulate import simulate


@dataclass(frozen=True, slots=True)
class Case:
    """A workload, and the requests a minute and tenant that RPM accepts there, with the reason for that number."""

    workload: str
    rpm: int
    why: str

    @property
    def policies(self) -> tuple[str, ...]:
        return ("vtc", "fcfs", f"rpm:{self.rpm}", "lcf")


HALF = "half of what the engine serves in a minute, so that two tenants at their limits just fill it"
SUITE = (
    Case("overload", 50, HALF),
    Case("late-burst", 50, HALF),
    Case("arena27", 20, "the middle one of the paper's 5, 20 and 30 requests a minute"),
)


def compare_suite(progress: Progress | None = None, suite: Sequence[Case] = SUITE) -> list[Comparison]:
    """Each case under its four policies. Progress is told as ("late-burst, fcfs", part of the whole suite)."""
    comparisons = []
    for i, case in enumerate(suite):
        told = _within(progress, case, i, len(suite)) if progress else None
        comparison = simulate(case.workload, case.policies, progress=told)
        settings = {**comparison.settings, "rpm limit": f"{case.rpm}, {case.why}"}
        comparisons.append(replace(comparison, settings=settings))
    return comparisons


def _within(progress: Progress, case: Case, i: int, cases: int) -> Progress:
    """Progress of one policy of one case, as progress of all of them."""

    def tell(policy: str, part: float) -> None:
        run = i * len(case.policies) + case.policies.index(policy)
        progress(f"{case.workload}, {policy}", (run + part) / (cases * len(case.policies)))

    return tell
