"""`fairgate bench`: what a part costs on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fairgate.progress import progress_bar
from fairgate.topology.processes import ProcessError

bench_app = typer.Typer(help="Measure what a part costs on this machine.", no_args_is_help=True)


@bench_app.command("scheduler")
def bench_scheduler(
    large: Annotated[bool, typer.Option("--large", help="Also a million tenants that all wait (3 GB).")] = False,
) -> None:
    """What a scheduling decision costs, from ten to a million tenants, and the memory of those that wait."""
    from fairgate.bench.scheduler import bench_scheduler as run_bench
    from fairgate.bench.scheduler import markdown

    told = Console(stderr=True)
    speeds, memory = run_bench(lambda what: told.print(what, highlight=False), large=large)
    print(markdown(speeds, memory))


@bench_app.command("shared")
def bench_shared(
    rounds: Annotated[int, typer.Option(help="How often each mode takes its turn.", min=1)] = 10,
    seconds: Annotated[float, typer.Option(help="Seconds of load in each turn.", min=0.1)] = 1.5,
    out: Annotated[Path | None, typer.Option(help="Write the tables to this file too (Markdown).")] = None,
) -> None:
    """What one queue over many gateways costs: requests/s, latency, the store's work, and a plan for 100 pools.

    Several minutes with the defaults. Exit status 1 when a request needs more commands of the store than promised.
    """
    from tempfile import TemporaryDirectory

    from fairgate.bench.report import markdown, promises
    from fairgate.bench.shared import BenchPlan, run_bench
    from fairgate.trials.promises import tell

    with progress_bar() as progress, TemporaryDirectory(prefix="fairgate-bench-") as folder:
        bench = run_bench(BenchPlan(rounds, seconds), Path(folder), progress)
    print(markdown(bench))
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(markdown(bench))
    raise typer.Exit(not tell(promises(bench), Console()))


@bench_app.command("kernels")
def bench_kernels(
    out: Annotated[Path, typer.Option(help="Folder for kernels.md and kernels.json.")] = Path("out/kernels"),
) -> None:
    """The LoRA kernels: correctness, then times against their peers on a GPU, and what LoRA adds on the CPU."""
    try:
        from kernels.bench.report import main
    except ModuleNotFoundError as missing:
        raise ProcessError(
            f"the kernels need {missing.name}, which the base install leaves out: pip install 'fairgate[worker]'"
        ) from None
    raise typer.Exit(main(out))
