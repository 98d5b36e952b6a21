"""The report of a comparison: one page as Markdown and HTML, its pictures, the results as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from loadgen.judge.results import Comparison, Outcome, Percentiles, Run
from loadgen.progress import Progress, quiet
from loadgen.report.findings import headline
from loadgen.report.markdown import escape, table, to_html
from loadgen.report.numbers import TENANTS_SHOWN, busiest, figures, number, percent, verdict
from loadgen.report.plots import PICTURES, slug

TITLE = "Who is served: policies compared"


def write_report(comparisons: Sequence[Comparison], out_dir: Path, *, progress: Progress = quiet) -> Path:
    """Write `index.html`, `report.md`, and per workload its pictures and `<workload>.json`; returns the HTML page.

    The JSON is the contract of `Comparison.to_json`. Files of the same names are replaced, others left alone.
    Raises ValueError when there is nothing to compare or two workloads are called alike, OSError when the folder
    cannot be written.
    """
    if not comparisons or not all(comparison.runs for comparison in comparisons):
        raise ValueError("nothing to report: expected at least one comparison, each with at least one run")
    if len({slug(comparison.workload) for comparison in comparisons}) < len(comparisons):
        raise ValueError("two comparisons of one report are called alike: their pictures would overwrite each other")
    out_dir.mkdir(parents=True, exist_ok=True)
    jobs = [(comparison, picture) for comparison in comparisons for picture in PICTURES]
    for i, (comparison, picture) in enumerate(jobs):
        progress(f"drawing {comparison.workload}", i / len(jobs))
        picture.save(comparison, out_dir)
    for comparison in comparisons:
        text = json.dumps(comparison.to_json(), indent=2) + "\n"
        (out_dir / f"{slug(comparison.workload)}.json").write_text(text, encoding="utf-8")
    markdown = page(comparisons)
    (out_dir / "report.md").write_text(markdown, encoding="utf-8")
    index = out_dir / "index.html"
    index.write_text(to_html(markdown, TITLE), encoding="utf-8")
    progress("report written", 1.0)
    return index


# -- the page --------------------------------------------------------------------------------------------------


def page(comparisons: Sequence[Comparison]) -> str:
    """The whole report as Markdown."""
    short = [f"- **{escape(c.workload)}**: {escape(headline(c))}" for c in comparisons]
    parts = [f"# {TITLE}", "\n".join(short), at_a_glance(comparisons), READING, *map(section, comparisons)]
    return "\n\n".join(parts) + "\n"


READING = """\
*The gap is the most by which the service (weighted tokens, over weight) of two tenants that both wait throughout
drifts apart; the bound is 2U/min(w), computed from cost, weights and pool. The service difference is the paper's
(OSDI'24, table 2), in service per second: a policy that rejects requests lowers it by lowering demand, so read it
beside the rejects. TTFT is the time to first token, counted from the arrival.*"""


def at_a_glance(comparisons: Sequence[Comparison]) -> str:
    """One row per workload and policy: the gap against the bound, throughput, rejects, waits."""
    head = [
        "workload",
        "policy",
        "largest service gap",
        "against the bound",
        "tokens/s",
        "rejected",
        "TTFT p50 (s)",
        "p99 (s)",
    ]
    rows = [[c.workload, *_glance(c, run)] for c in comparisons for run in c.runs]
    return table(head, rows, text_columns=2)


def _glance(comparison: Comparison, run: Run) -> list[str]:
    return [
        run.policy,
        number(run.service_gap_max),
        verdict(comparison, run),
        number(run.throughput_tokens_per_s),
        percent(run.count(Outcome.REJECTED) / len(run.records)),
        number(run.ttft_s.p50),
        number(run.ttft_s.p99),
    ]


def section(comparison: Comparison) -> str:
    """One workload: how it was made, its tables, and each picture below the sentence that says what it shows."""
    parts = [f"## {escape(comparison.workload)}", _made(comparison)]
    parts.append(table(["", *(run.policy for run in comparison.runs)], figures(comparison)))
    parts.append(tenant_table(comparison))
    for picture in PICTURES:
        name, sentence = picture.file_name(comparison), escape(picture.sentence(comparison))
        parts += [
            f"### {picture.title}",
            sentence,
            f"![{picture.title}, {escape(comparison.workload)}. {sentence}]({name})",
        ]
    return "\n\n".join(parts)


def _made(comparison: Comparison) -> str:
    requests = len(comparison.runs[0].records)
    last = max(run.last_arrival_s for run in comparison.runs)
    facts = [
        f"{requests:,} requests of {len(comparison.runs[0].tenants)} tenants over {last:,.0f} s",
        f"seed {comparison.seed}",
        f"bound {comparison.bound:,.0f}",
    ]
    facts += [f"{name} {value}" for name, value in comparison.settings.items() if not _long(value)]
    lines = [" · ".join(facts)] + [f"{name}: {value}" for name, value in comparison.settings.items() if _long(value)]
    return "\n\n".join(f"*{escape(line)}*" for line in lines)


def _long(value: str) -> bool:
    """Whether a setting is a sentence of its own."""
    return len(value) > 40


def tenant_table(comparison: Comparison) -> str:
    """Share of the service while requests arrive, and median time to first token, per tenant and policy."""
    shown = busiest(comparison, TENANTS_SHOWN)
    policies = [run.policy for run in comparison.runs]
    head = ["tenant", "weight", *(f"share {p}" for p in policies), *(f"p50 {p} (s)" for p in policies)]
    rows = [_tenant_row(comparison, tenant) for tenant in shown]
    others = [tenant for tenant in comparison.runs[0].tenants if tenant not in shown]
    if others:
        shares = [f"{sum(run.tenants[t].share for t in others):.3f}" for run in comparison.runs]
        rows.append([f"{len(others)} others", "", *shares, *[""] * len(policies)])
    return table(head, rows)


def _tenant_row(comparison: Comparison, tenant: str) -> list[str]:
    results = [run.tenants[tenant] for run in comparison.runs]
    shares = [f"{result.share:.3f}" for result in results]
    return [tenant, f"{comparison.weights.get(tenant, 1.0):g}", *shares, *(_p50(result.ttft_s) for result in results)]


def _p50(ttft: Percentiles) -> str:
    return number(ttft.p50)
