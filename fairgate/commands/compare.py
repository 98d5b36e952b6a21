"""`fairgate compare` and `fairgate arena`: policies against each other, and against what the VTC paper found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fairgate.commands.extras import need_report
from fairgate.commands.options import one_of
from fairgate.commands.output import tell_report, write_report

if TYPE_CHECKING:
    from loadgen.judge.results import Comparison


def compare(
    out: Annotated[Path, typer.Option(help="Folder for the report; it is created.")] = Path("out/compare"),
    live: Annotated[
        bool, typer.Option("--live", help="Over HTTP, through a real gateway and worker, instead of simulated.")
    ] = False,
    seconds: Annotated[
        float, typer.Option(help="--live: seconds of load per policy; 0: as long as shares need to mean something.")
    ] = 0.0,
    suite: Annotated[
        str, typer.Option(help="default, or paper: the figures and tables of the VTC paper (a few minutes).")
    ] = "default",
) -> None:
    """VTC against FCFS, LCF and RPM: a table, and a report with pictures."""
    need_report()
    if one_of("--suite", suite, "default", "paper") == "paper":
        _reproduce_paper(out)
        return
    from rich.console import Console

    from loadgen.report.terminal import print_comparison

    comparisons = _compare_live(seconds) if live else _compare_simulated()
    for comparison in comparisons:
        print_comparison(comparison, Console())
    write_report(comparisons, out)


def _reproduce_paper(out: Path) -> None:
    from fairgate.progress import progress_bar
    from loadgen.paper.evaluation import reproduce_paper

    with progress_bar() as progress:
        page = reproduce_paper(out, progress=progress)
    tell_report(page)


def _compare_live(seconds: float) -> list[Comparison]:
    from rich.console import Console

    from fairgate.trials.compare_live import compare_live

    return [compare_live(seconds, Console())]


def _compare_simulated() -> list[Comparison]:
    from fairgate.progress import progress_bar
    from loadgen.simulator.suite import compare_suite

    with progress_bar() as progress:
        return compare_suite(progress)


def arena(
    seeds: Annotated[int, typer.Option(help="Jittered runs of each policy, averaged.", min=1)] = 10,
) -> None:
    """Reproduce table 2 of the VTC paper: the 27-client trace, beside the published figures."""
    from rich.console import Console

    from fairgate.progress import progress_bar
    from loadgen.paper.table2 import reproduce, table

    with progress_bar() as progress:
        found = reproduce(range(1, seeds + 1), progress=lambda part: progress("27 clients", part))
    Console().print(table(found, seeds))
