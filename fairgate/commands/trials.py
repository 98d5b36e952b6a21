"""`fairgate replicas` and `fairgate chaos`: live runs whose exit status says whether promises were kept."""

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated

import typer
from rich.console import Console

from fairgate.progress import progress_bar
from fairgate.topology.processes import ProcessError

replicas_app = typer.Typer(help="Show live that many gateways give one fair share.", no_args_is_help=True)

Folder = Annotated[
    Path | None, typer.Option(help="Folder for configurations and logs; a new temporary one by default.")
]


@replicas_app.command("shares")
def replicas_shares(
    replicas: Annotated[str, typer.Option(help="How many gateways, comma-separated: one run for each.")] = "2,4",
    seconds: Annotated[float, typer.Option(help="Seconds of saturated load that shares are judged over.", min=3)] = 60,
    weights: Annotated[
        str, typer.Option(help="LIGHT:HEAVY, of the tenant that enters through one gateway and of the other.")
    ] = "4:1",
    tolerance: Annotated[float, typer.Option(help="How far a share may lie from the fair one.", min=1e-4)] = 0.01,
    control: Annotated[
        bool, typer.Option("--control", help="A queue for each gateway alone, which has to miss the fair share.")
    ] = False,
    folder: Folder = None,
) -> None:
    """Shares by weight over gateways whose tenants enter unevenly, judged by the engine's log.

    The light tenant enters through one gateway only, the heavy one through all and asks for more than everything. Exit
    status 1 when the shares are not the fair ones, or, with --control, when they are.
    """
    from fairgate.trials.replicas import SharesPlan, run_shares

    pair = _two_numbers("--weights", weights)
    plans = [SharesPlan(number, seconds, pair, not control, tolerance) for number in _counts("--replicas", replicas)]
    place, console = _place(folder), Console()
    with progress_bar() as progress:
        kept = run_shares(plans, place, console, progress)
    _end(kept, place, console)


@replicas_app.command("bound")
def replicas_bound(
    replicas: Annotated[int, typer.Option(help="How many gateways.", min=1)] = 4,
    workload: Annotated[
        str, typer.Option(help="Name of a workload (`fairgate workloads` lists them) or a trace file.")
    ] = "arena27",
    time_scale: Annotated[
        float, typer.Option(help="Above 1 stretches the arrivals, below 1 squeezes them.", min=1e-3)
    ] = 0.15,
    seconds: Annotated[float, typer.Option(help="Send only what arrives in the first seconds; 0: all of it.")] = 0.0,
    policy: Annotated[
        str, typer.Option(help="Comma-separated: vtc, which promises the bound, and fcfs, the control that breaks it.")
    ] = "vtc,fcfs",
    folder: Folder = None,
) -> None:
    """The largest gap in service between two clients that wait, over many gateways, judged by the engines' logs.

    Clients enter through the gateways unevenly: half of them through the first, a quarter through the second, and so
    on. Exit status 1 when vtc passes the bound, or fcfs does not.
    """
    from dataclasses import replace

    from fairgate.trials.replicas import BoundPlan, run_bound
    from fairness import parse_policy
    from loadgen.workloads.catalogue import load_workload

    known = load_workload(workload).stretched(time_scale)
    if seconds:
        known = replace(known, requests=tuple(r for r in known.requests if r.t_s < seconds))
    policies = [name.strip() for name in policy.split(",") if name.strip()]
    for name in policies:
        parse_policy(name)
    place, console = _place(folder), Console()
    with progress_bar() as progress:
        kept = run_bound([BoundPlan(known, name, replicas) for name in policies], place, console, progress)
    _end(kept, place, console)


def chaos(
    seed: Annotated[int, typer.Option(help="Decides order, moments and victims; -1: any, which is printed.")] = -1,
    seconds: Annotated[float, typer.Option(help="Seconds of load.", min=8)] = 60,
    replicas: Annotated[int, typer.Option(help="How many gateways.", min=2)] = 4,
    folder: Folder = None,
) -> None:
    """Kill gateways, the store and engines under load, and check that nothing is lost, doubled or left behind.

    Each minute: kill -9 of a gateway, restarts of the store with and without its data, a SIGSTOP of it, kill -9 of an
    engine. Exit status 1 names each promise that was broken.
    """
    from random import randrange

    from fairgate.trials.chaos import ChaosPlan, run_chaos

    place, console = _place(folder), Console()
    with progress_bar() as progress:
        plan = ChaosPlan(seed if seed >= 0 else randrange(10_000), seconds, replicas)
        kept = run_chaos(plan, place, console, progress)
    _end(kept, place, console)


def _place(folder: Path | None) -> Path:
    return (folder or Path(mkdtemp(prefix="fairgate-run-"))).absolute()


def _end(kept: bool, place: Path, console: Console) -> None:
    console.print(f"logs are in {place}", highlight=False, soft_wrap=True)
    raise typer.Exit(not kept)


def _counts(option: str, text: str) -> list[int]:
    """Whole numbers from 1. Raises ProcessError."""
    items = [item.strip() for item in text.split(",") if item.strip()]
    if not items or not all(item.isdecimal() and int(item) > 0 for item in items):
        raise ProcessError(f"{option} {text}: expected whole numbers of at least 1, like 2,4")
    return [int(item) for item in items]


def _two_numbers(option: str, text: str) -> tuple[float, float]:
    try:
        first, second = (float(item) for item in text.split(":"))
    except ValueError:
        first = second = 0.0
    if not (0 < first < 1e6 and 0 < second < 1e6):
        raise ProcessError(f"{option} {text}: expected two numbers above 0, like 4:1")
    return first, second
