"""`fairgate replicas`: live runs whose exit status says whether many gateways gave one fair share."""

from __future__ import annotations

from typing import Annotated

import typer

from fairgate.commands.options import (
    FirstSeconds,
    Folder,
    WorkloadName,
    counts,
    items_of,
    place_of,
    two_numbers,
    workload_of,
)
from fairgate.commands.output import end_run

replicas = typer.Typer(help="Show live that many gateways give one fair share.", no_args_is_help=True)


@replicas.command()
def shares(
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
    from rich.console import Console

    from fairgate.progress import progress_bar
    from fairgate.trials.shares import SharesPlan, run_shares

    pair = two_numbers("--weights", weights)
    plans = [SharesPlan(number, seconds, pair, not control, tolerance) for number in counts("--replicas", replicas)]
    place, console = place_of(folder, "fairgate-run-"), Console()
    with progress_bar() as progress:
        kept = run_shares(plans, place, console, progress)
    end_run(kept, place)


@replicas.command()
def bound(
    replicas: Annotated[int, typer.Option(help="How many gateways.", min=1)] = 4,
    workload: WorkloadName = "arena27",
    time_scale: Annotated[
        float, typer.Option(help="Above 1 stretches the arrivals, below 1 squeezes them.", min=1e-3)
    ] = 0.15,
    seconds: FirstSeconds = 0.0,
    policy: Annotated[
        str, typer.Option(help="Comma-separated: vtc, which promises the bound, and fcfs, the control that breaks it.")
    ] = "vtc,fcfs",
    folder: Folder = None,
) -> None:
    """The largest gap in service between two clients that wait, over many gateways, judged by the engines' logs.

    Clients enter through the gateways unevenly: half of them through the first, a quarter through the second, and so
    on. Exit status 1 when vtc passes the bound, or fcfs does not.
    """
    from rich.console import Console

    from fairgate.progress import progress_bar
    from fairgate.trials.bound import BoundPlan, run_bound
    from fairness import parse_policy

    known = workload_of(workload, time_scale, seconds)
    policies = items_of(policy)
    for name in policies:
        parse_policy(name)
    place, console = place_of(folder, "fairgate-run-"), Console()
    with progress_bar() as progress:
        kept = run_bound([BoundPlan(known, name, replicas) for name in policies], place, console, progress)
    end_run(kept, place)
