"""What a comparison says in numbers: the figures of its tables, and which tenants they name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loadgen.judge.metrics import percentiles
from loadgen.judge.results import Comparison, Outcome, Run

TENANTS_SHOWN = 8  # in a table


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a run as a table shows it."""

    title: str
    text: Callable[[Comparison, Run], str]


def number(value: float | None) -> str:
    """A figure with about three digits that matter; a dash where there is none."""
    if value is None:
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def percent(part: float) -> str:
    """A part of 1; with a decimal where whole per cents would say all or nothing."""
    digits = 1 if 0.985 <= part < 1.005 or 0 < part < 0.015 else 0
    return f"{100 * part:.{digits}f}\N{NO-BREAK SPACE}%"


def verdict(comparison: Comparison, run: Run) -> str:
    """Whether the run's largest gap lies below the bound, and where."""
    ratio = run.service_gap_max / comparison.bound
    return f"✓ {percent(ratio)}" if ratio <= 1 else f"✗ {ratio:.1f} times"


FIGURES = (
    Figure("largest service gap", lambda _, run: number(run.service_gap_max)),
    Figure("against the bound", verdict),
    Figure("service difference, average", lambda _, run: number(run.service_difference.avg)),
    Figure("service difference, max", lambda _, run: number(run.service_difference.max)),
    Figure("throughput (tokens/s)", lambda _, run: number(run.throughput_tokens_per_s)),
    Figure("requests finished", lambda _, run: f"{run.count(Outcome.FINISHED):,}"),
    Figure("requests rejected", lambda _, run: f"{run.count(Outcome.REJECTED):,}"),
    Figure("requests aborted", lambda _, run: f"{run.count(Outcome.ABORTED):,}"),
    Figure("TTFT p50 (s)", lambda _, run: number(run.ttft_s.p50)),
    Figure("TTFT p99 (s)", lambda _, run: number(run.ttft_s.p99)),
)


def figures(comparison: Comparison) -> list[list[str]]:
    """One row per figure: its title, then its value under each policy."""
    return [[figure.title, *(figure.text(comparison, run) for run in comparison.runs)] for figure in FIGURES]


def tokens_asked(comparison: Comparison) -> dict[str, int]:
    """Tokens each tenant asked for, input and output, in order of tenant id."""
    asked = dict.fromkeys(sorted(comparison.runs[0].tenants), 0)
    for record in comparison.runs[0].records:
        asked[record.tenant] += record.input_tokens + record.output_tokens
    return asked


def busiest(comparison: Comparison, most: int) -> list[str]:
    """At most `most` + 1 tenants, those that ask for the most, in order of id: all of them where they are so few."""
    asked = tokens_asked(comparison)
    ranked = sorted(asked, key=lambda tenant: (-asked[tenant], tenant))
    return sorted(ranked if len(ranked) <= most + 1 else ranked[:most])


def lightest(comparison: Comparison) -> list[str]:
    """The half of the tenants that asks for the least; at least one."""
    asked = tokens_asked(comparison)
    ranked = sorted(asked, key=lambda tenant: (asked[tenant], tenant))
    return ranked[: max(1, len(ranked) // 2)]


def median_ttft(run: Run, tenants: Sequence[str]) -> float | None:
    """Median time to first token of what these tenants had answered."""
    members = set(tenants)
    return percentiles(record for record in run.records if record.tenant in members).p50
