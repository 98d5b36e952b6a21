"""A comparison as a table on the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from loadgen.judge.results import Comparison, Run
from loadgen.report.findings import headline
from loadgen.report.numbers import TENANTS_SHOWN, busiest, figures, number


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
