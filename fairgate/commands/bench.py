"""`fairgate bench`: what a part costs on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fairgate.commands.extras import needing
from fairgate.commands.options import TablesFile
from fairgate.commands.output import write_text

bench = typer.Typer(help="Measure what a part costs on this machine.", no_args_is_help=True)


@bench.command()
def scheduler(
    large: Annotated[bool, typer.Option("--large", help="Also a million tenants that all wait (3 GB).")] = False,
) -> None:
    """What a scheduling decision costs, from ten to a million tenants, and the memory of those that wait."""
    from fairgate.bench.scheduler import bench_scheduler, markdown

    speeds, memory = bench_scheduler(lambda what: typer.echo(what, err=True), large=large)
    print(markdown(speeds, memory))


@bench.command()
def shared(
    rounds: Annotated[int, typer.Option(help="How often each mode takes its turn.", min=1)] = 10,
    seconds: Annotated[float, typer.Option(help="Seconds of load in each turn.", min=0.1)] = 1.5,
    out: TablesFile = None,
) -> None:
    """What one queue over many gateways costs: requests/s, latency, the store's work, and a plan for 100 pools.

    Several minutes with the defaults. Exit status 1 when a request needs more commands of the store than promised.
    """
    from tempfile import TemporaryDirectory

    from rich.console import Console

    from fairgate.bench.report import markdown, promises
    from fairgate.bench.shared import BenchPlan, run_bench
    from fairgate.progress import progress_bar
    from fairgate.trials.promises import tell

    with progress_bar() as progress, TemporaryDirectory(prefix="fairgate-bench-") as folder:
        found = run_bench(BenchPlan(rounds, seconds), Path(folder), progress)
    print(markdown(found))
    write_text(out, markdown(found))
    raise typer.Exit(not tell(promises(found), Console()))


@bench.command()
def kernels(
    out: Annotated[Path, typer.Option(help="Folder for kernels.md and kernels.json.")] = Path("out/kernels"),
) -> None:
    """The LoRA kernels: correctness, then times against their peers on a GPU, and what LoRA adds on the CPU."""
    with needing("worker", "the kernels need"):
        from kernels.bench.report import main
    raise typer.Exit(main(out))
