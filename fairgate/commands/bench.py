"""`fairgate bench`: what a part costs on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fairgate.commands.extras import needing
from fairgate.commands.options import JsonFile, TablesFile, one_of
from fairgate.commands.output import write_json, write_text

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

    from fairgate.bench.shared import SharedPlan, bench_shared
    from fairgate.bench.shared_report import markdown, promises
    from fairgate.progress import progress_bar
    from fairgate.promises import tell

    with progress_bar() as progress, TemporaryDirectory(prefix="fairgate-bench-") as folder:
        found = bench_shared(SharedPlan(rounds, seconds), Path(folder), progress)
    print(markdown(found))
    write_text(out, markdown(found))
    raise typer.Exit(not tell(promises(found), Console()))


@bench.command()
def gateway(
    rounds: Annotated[int, typer.Option(help="How often each server takes its turn.", min=1)] = 5,
    seconds: Annotated[float, typer.Option(help="Seconds of each of its windows.", min=0.1, max=8.0)] = 1.5,
    tenants: Annotated[int, typer.Option(help="Of the gateway.", min=1)] = 10,
    slots: Annotated[int, typer.Option(help="Of the engine; with fewer than 200, requests queue.", min=1)] = 1000,
    nginx: Annotated[str | None, typer.Option(help="Path of nginx, where it is not on PATH.")] = None,
    vllm_router: Annotated[str | None, typer.Option(help="Path of vllm-router, where it is not on PATH.")] = None,
    json_file: JsonFile = None,
    out: TablesFile = None,
) -> None:
    """What the gateway costs with everything on: processor time per request and per streamed event, beside others'."""
    from tempfile import TemporaryDirectory

    from rich.console import Console

    from fairgate.bench.gateway import GatewayPlan, bench_gateway
    from fairgate.bench.gateway_report import as_data, markdown, terminal
    from fairgate.bench.gateway_servers import program, servers
    from fairgate.progress import progress_bar

    known = servers(program("--nginx", nginx, "nginx"), program("--vllm-router", vllm_router, "vllm-router"))
    with progress_bar() as progress, TemporaryDirectory(prefix="fairgate-bench-") as folder:
        found = bench_gateway(GatewayPlan(known, rounds, seconds, tenants, slots), Path(folder), progress)
    terminal(found, Console())
    write_text(out, markdown(found))
    write_json(json_file, as_data(found))


@bench.command()
def processes(
    count: Annotated[int, typer.Option(help="How many processes are compared with one.", min=2, max=999)] = 2,
    rounds: Annotated[int, typer.Option(help="How often each takes its turn.", min=1)] = 10,
    seconds: Annotated[float, typer.Option(help="Seconds of load in each turn.", min=0.1)] = 2.0,
    out: TablesFile = None,
) -> None:
    """What `gateway --processes` gives: requests/s and processor time per request, beside those of one process."""
    from tempfile import TemporaryDirectory

    from fairgate.bench.processes import ProcessesPlan, bench_processes, markdown
    from fairgate.progress import progress_bar

    with progress_bar() as progress, TemporaryDirectory(prefix="fairgate-bench-") as folder:
        tables = markdown(bench_processes(ProcessesPlan(count, rounds, seconds), Path(folder), progress))
    print(tables)
    write_text(out, tables + "\n")


@bench.command()
def profile(
    py_spy: Annotated[str | None, typer.Option(help="Path of py-spy, where it is not on PATH.")] = None,
    seconds: Annotated[float, typer.Option(help="Seconds of each load.", min=1.0, max=8.0)] = 5.0,
    out: TablesFile = None,
) -> None:
    """Where the gateway's time goes under the loads of `bench gateway`, as py-spy sees it."""
    from tempfile import TemporaryDirectory

    from fairgate.bench.gateway_profile import profile_gateway
    from fairgate.bench.gateway_servers import needed
    from fairgate.progress import progress_bar

    path = needed("--py-spy", py_spy, "py-spy")
    with progress_bar() as progress, TemporaryDirectory(prefix="fairgate-bench-") as folder:
        tables = profile_gateway(path, seconds, Path(folder), progress)
    print(tables)
    write_text(out, tables + "\n")


@bench.command()
def kernels(
    out: Annotated[Path, typer.Option(help="Folder for kernels.md and kernels.json.")] = Path("out/kernels"),
) -> None:
    """The LoRA kernels: correctness, then times against their peers on a GPU, and what LoRA adds on the CPU."""
    with needing("worker", "the kernels need"):
        from kernels.bench.report import main
    raise typer.Exit(main(out))


@bench.command()
def lora(
    clock: Annotated[str, typer.Option(help="wall, or cpu for a machine that others use too.")] = "wall",
    threads: Annotated[int, typer.Option(help="Compute threads; 0: as many as PyTorch takes.", min=0)] = 0,
    repetitions: Annotated[int, typer.Option(help="Of each batch; the least time counts.", min=1)] = 15,
    out: TablesFile = None,
) -> None:
    """What LoRA adds to a step on the CPU: bfloat16, the shapes of SmolLM2-135M, rank 16, 8 adapters."""
    with needing("worker", "the kernels need"):
        import torch

        from kernels.bench.cpu import CLOCKS, run_all, table
    one_of("--clock", clock, *CLOCKS)
    torch.set_num_threads(threads or torch.get_num_threads())
    tables = table(run_all(repetitions=repetitions, clock=CLOCKS[clock]))
    print(tables)
    write_text(out, tables + "\n")
