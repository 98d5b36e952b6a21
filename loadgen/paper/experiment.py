"""What an experiment of the paper is, and the sentence that says whether it came out as published.

"Published" values are measured by `loadgen.paper.curves` and `loadgen.judge.metrics` on the runs that the authors
recorded and put beside their code, from which figures and tables were made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loadgen.paper.jobs import Job, Results
from loadgen.report.curves import Panel
from loadgen.report.numbers import number

UNKNOWN = "the reason is not known"
LISTED = 7  # values in a sentence


@dataclass(frozen=True, slots=True)
class Check:
    """One value against the published one. They agree when they differ by at most the part `within` of the published
    value, or when that lies in the range that was seen over seeds: single runs were published."""

    what: str
    found: float
    published: float
    within: float
    seen: tuple[float, float] | None = None

    @property
    def near(self) -> bool:
        return abs(self.found - self.published) <= self.within * abs(self.published)

    @property
    def agrees(self) -> bool:
        return self.near or (self.seen is not None and self.seen[0] <= self.published <= self.seen[1])

    def __str__(self) -> str:
        spread = ""
        if self.seen and self.agrees and not self.near:
            spread = f", seen {number(self.seen[0])} to {number(self.seen[1])}"
        return f"{self.what} {number(self.found)} ({number(self.published)}{spread})"


@dataclass(frozen=True, slots=True)
class Shown:
    """What an experiment gave. `holds` is whether the paper's finding, stated in `finding` as it came out here, is
    seen; `why` explains checks that differ, as far as that is known. Either `panels` or `rows` are its data."""

    finding: str
    holds: bool
    checks: Sequence[Check]
    why: str = UNKNOWN
    panels: Sequence[Panel] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()

    @property
    def agrees(self) -> bool:
        return self.holds and all(check.agrees for check in self.checks)

    def sentence(self) -> str:
        """One sentence: what is seen, and whether it agrees with what was published (in brackets)."""
        return f"{self.finding}; {self._verdict()}."

    def _verdict(self) -> str:
        differing = [str(check) for check in self.checks if not check.agrees]
        if not self.holds:
            return f"this does not show what was published: {self.why}"
        if differing:
            return (
                f"the finding agrees, and {len(self.checks) - len(differing)} of {len(self.checks)} values do, but not "
                f"(published in brackets) {', '.join(differing)}: {self.why}"
            )
        if len(self.checks) > LISTED:
            return f"this agrees with the paper, and so do all {len(self.checks)} values compared"
        return f"this agrees with the published values (in brackets): {', '.join(map(str, self.checks))}"


@dataclass(frozen=True, slots=True)
class Experiment:
    """A figure or table by its number in the proceedings. `runs` are needed whole, `rows` as means over seeds."""

    name: str
    title: str
    setup: str
    show: Callable[[Results], Shown]
    runs: tuple[Job, ...] = ()
    rows: tuple[Job, ...] = ()
