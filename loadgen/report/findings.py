"""What a comparison says, in numbers and sentences. Every sentence is computed from the data it stands beside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from loadgen.judge.metrics import percentiles
from loadgen.judge.results import Comparison, Outcome, Run

GAP_SHOWN = 4  # times the bound: some policies go so far beyond that nothing else would be seen


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


# -- sentences -------------------------------------------------------------------------------------------------


def headline(comparison: Comparison) -> str:
    """The whole workload in one sentence: each policy's verdict on the bound, and what it rejects."""
    return "; ".join(_in_short(comparison, run) for run in comparison.runs) + "."


def _in_short(comparison: Comparison, run: Run) -> str:
    ratio = run.service_gap_max / comparison.bound
    kept = f"keeps within {percent(ratio)} of the bound" if ratio <= 1 else f"breaks the bound {ratio:.1f} times over"
    rejected = run.count(Outcome.REJECTED)
    if not rejected:
        return f"{run.policy} {kept}"
    best = max(other.throughput_tokens_per_s for other in comparison.runs) or 1.0
    left = percent(run.throughput_tokens_per_s / best)
    return f"{run.policy} {kept}, but rejects {percent(rejected / len(run.records))} and has {left} of the throughput"


def all_sending_s(comparison: Comparison) -> float:
    """From when on every tenant has sent something; 0 where that is all but the whole run, or less than a quarter."""
    first: dict[str, float] = {}
    for record in comparison.runs[0].records:
        first[record.tenant] = min(record.arrival_s, first.get(record.tenant, record.arrival_s))
    start = max(first.values(), default=0.0)
    last = comparison.runs[0].last_arrival_s
    return start if 0.05 * last < start <= 0.75 * last else 0.0


def about_service(comparison: Comparison) -> str:
    """Whose share of the service depends most on the policy."""
    start = all_sending_s(comparison)
    shares = [_shares(run, start) for run in comparison.runs]
    spread = {t: _spread([share[t] for share in shares]) for t in comparison.runs[0].tenants}
    tenant = max(spread, key=lambda t: spread[t])
    by_policy = dict(zip((run.policy for run in comparison.runs), shares, strict=True))
    told = _each(comparison, lambda run: percent(by_policy[run.policy][tenant]))
    since = f"Since every tenant sends (from {number(start)} s), {tenant}" if start else f"Of all service, {tenant}"
    if len(comparison.runs) > 1 and spread[tenant] < 0.02:
        return f"{since} receives {told}: no tenant's share depends much on the policy."
    return f"{since} receives {told}."


def _shares(run: Run, start_s: float) -> dict[str, float]:
    if start_s == 0.0:
        return {tenant: result.share for tenant, result in run.tenants.items()}
    return run.series.shares(start_s, run.last_arrival_s)


def about_response(comparison: Comparison) -> str:
    """How long the light tenants wait."""
    light = lightest(comparison)
    who = f"{light[0]}, which asks for least," if len(light) == 1 else f"the {len(light)} tenants that ask for least"
    waits = {run.policy: median_ttft(run, light) for run in comparison.runs}
    if not any(wait is not None for wait in waits.values()):
        return "Nothing that the light tenants asked was answered."
    verb = "waits" if len(light) == 1 else "wait"
    told = _each(comparison, lambda run: f"{number(waits[run.policy])} s")
    return f"At the median {who} {verb} {told} for the first token{_factor(comparison, waits)}."


def _factor(comparison: Comparison, waits: Mapping[str, float | None]) -> str:
    """The longest against the shortest wait, among policies that turn nobody away: the others wait less by refusing."""
    refusing = [run.policy for run in comparison.runs if run.count(Outcome.REJECTED)]
    fair = {policy: wait for policy, wait in waits.items() if wait is not None and policy not in refusing}
    text = ""
    if fair:
        best, worst = min(fair, key=lambda p: fair[p]), max(fair, key=lambda p: fair[p])
        if fair[worst] > 1.1 * fair[best]:
            text = f", {fair[worst] / fair[best]:.1f} times as long under {worst} as under {best}"
    partial = [run.policy for run in comparison.runs if run.count(Outcome.FINISHED) < len(run.records)]
    return text + (f" (counting only what was answered, under {_and(partial)})" if partial else "")


def about_gap(comparison: Comparison) -> str:
    """Which policies stay below the bound."""
    kept = [run for run in comparison.runs if run.service_gap_max <= comparison.bound]
    broken = [run for run in comparison.runs if run.service_gap_max > comparison.bound]
    parts = []
    if kept:
        parts.append("it holds under " + _and([f"{r.policy} ({number(r.service_gap_max)})" for r in kept]))
    if broken:
        parts.append("it is broken under " + _and([f"{r.policy} ({number(r.service_gap_max)})" for r in broken]))
    meaning = "how far two tenants that both wait may drift apart"
    sentence = f"The bound 2U/min(w), {meaning}, is {number(comparison.bound)}: {'; '.join(parts)}."
    beyond = any(run.service_gap_max > GAP_SHOWN * comparison.bound for run in comparison.runs)
    return sentence + (f" The picture ends at {GAP_SHOWN} times the bound." if beyond else "")


def about_throughput(comparison: Comparison) -> str:
    """What fairness costs, and who pays by being turned away."""
    best = max(run.throughput_tokens_per_s for run in comparison.runs)
    if not best:
        return "Nothing was served."

    def of_best(run: Run) -> str:
        return percent(run.throughput_tokens_per_s / best)

    sentences = [f"Of the highest throughput, {number(best)} tokens/s, remains {_each(comparison, of_best)}."]
    keeping = [run.throughput_tokens_per_s for run in comparison.runs if not run.count(Outcome.REJECTED)]
    if len(keeping) > 1 and min(keeping) >= 0.99 * max(keeping):
        sentences.append("The order in which requests are served costs no throughput.")
    sentences += [
        f"Under {run.policy} {percent(run.count(Outcome.REJECTED) / len(run.records))} of the requests are turned away."
        for run in comparison.runs
        if run.count(Outcome.REJECTED)
    ]
    return " ".join(sentences)


def _each(comparison: Comparison, text: Callable[[Run], str]) -> str:
    return _and([f"{text(run)} under {run.policy}" for run in comparison.runs])


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _spread(values: Sequence[float]) -> float:
    return max(values) - min(values)
