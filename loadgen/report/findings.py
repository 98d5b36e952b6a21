"""What a comparison says in sentences. Every sentence is computed from the data it stands beside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from loadgen.judge.results import Comparison, Outcome, Run
from loadgen.report.numbers import lightest, median_ttft, number, percent

GAP_SHOWN = 4  # times the bound: some policies go so far beyond that nothing else would be seen


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
