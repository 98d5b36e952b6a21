"""The report of a comparison: one page as Markdown and HTML, its pictures, the results as JSON; and a terminal table.

The page is written once, in Markdown. The HTML is rendered from it, so the two cannot disagree.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from markdown_it import MarkdownIt
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from loadgen.judge.results import Comparison, Outcome, Percentiles, Run
from loadgen.report.findings import FIGURES, busiest, headline, number, percent, verdict
from loadgen.report.plots import DARK, LIGHT, PICTURES, slug

TENANTS_SHOWN = 8
TITLE = "Who is served: policies compared"

Progress = Callable[[str, float], None]  # (what is being drawn, part of the report that is done)


def write_report(comparisons: Sequence[Comparison], out_dir: Path, *, progress: Progress | None = None) -> Path:
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
        if progress:
            progress(f"drawing {comparison.workload}", i / len(jobs))
        picture.save(comparison, out_dir)
    for comparison in comparisons:
        text = json.dumps(comparison.to_json(), indent=2) + "\n"
        (out_dir / f"{slug(comparison.workload)}.json").write_text(text, encoding="utf-8")
    markdown = page(comparisons)
    (out_dir / "report.md").write_text(markdown, encoding="utf-8")
    index = out_dir / "index.html"
    index.write_text(to_html(markdown), encoding="utf-8")
    if progress:
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


def figures(comparison: Comparison) -> list[list[str]]:
    """One row per figure: its title, then its value under each policy."""
    return [[figure.title, *(figure.text(comparison, run) for run in comparison.runs)] for figure in FIGURES]


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


# -- Markdown --------------------------------------------------------------------------------------------------


def escape(text: str) -> str:
    """Text that Markdown shows as it is: workload and tenant names come from files."""
    return re.sub(r"([\\`*_\[\]<>|~#])", r"\\\1", re.sub(r"[ \t\r\n]+", " ", text))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1) -> str:
    """A Markdown table; the first `text_columns` columns lean left, numbers right."""
    rule = [":---" if i < text_columns else "---:" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [_escaped(head), rule, *map(_escaped, rows)])


def _escaped(cells: Sequence[str]) -> list[str]:
    return [escape(cell) for cell in cells]


def to_html(markdown: str, title: str = TITLE) -> str:
    """The page as HTML, with tables that scroll and pictures that follow the reader's light or dark mode."""
    renderer = MarkdownIt("commonmark", {"html": False}).enable("table")
    renderer.add_render_rule("table_open", lambda *_: '<div class="scroll"><table>\n')
    renderer.add_render_rule("table_close", lambda *_: "</table></div>\n")
    renderer.add_render_rule("image", _picture)
    template = Template(files("loadgen").joinpath("report.html").read_text(encoding="utf-8"))
    return template.substitute(title=title, body=renderer.render(markdown))


def _picture(renderer: Any, tokens: Sequence[Any], index: int, options: Any, env: Any) -> str:
    light = str(tokens[index].attrGet("src"))
    dark = light.removesuffix(f"{LIGHT.suffix}.png") + f"{DARK.suffix}.png"
    image: str = renderer.image(tokens, index, options, env)
    return f'<picture><source srcset="{dark}" media="(prefers-color-scheme: dark)">{image}</picture>'


# -- the terminal ----------------------------------------------------------------------------------------------


def print_comparison(comparison: Comparison, console: Console) -> None:
    """The comparison as a table, its verdict below, and what a reader must know to trust it."""
    view = Table(title=comparison.workload, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    view.add_column()
    for run in comparison.runs:
        view.add_column(run.policy, justify="right")
    for row in figures(comparison):
        view.add_row(*row)
    for tenant in busiest(comparison, TENANTS_SHOWN):
        shares = [f"{run.tenants[tenant].share:.3f}" for run in comparison.runs]
        view.add_row(Text(f"share of {tenant}"), *shares)
    console.print(view)
    console.print(f"Bound {number(comparison.bound)}: {headline(comparison)}", highlight=False, markup=False)
    for name, value in comparison.settings.items():
        console.print(f"{name}: {value}", highlight=False, markup=False)
    for run in comparison.runs:
        _print_refused(run, console)


def _print_refused(run: Run, console: Console) -> None:
    """Names what could never run: a request larger than the pool is a mistake in the workload, not a policy's doing."""
    refused = run.refused_too_large()
    if refused:
        named = ", ".join(record.id for record in refused[:5]) + (", ..." if len(refused) > 5 else "")
        text = f"{run.policy}: {len(refused)} requests are larger than the pool and were refused: {named}"
        console.print(text, style="yellow", highlight=False, markup=False)
