"""`fairgate chaos`."""

from __future__ import annotations

from typing import Annotated

import typer

from fairgate.commands.options import Folder, place_of
from fairgate.commands.output import end_run


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

    from rich.console import Console

    from fairgate.progress import progress_bar
    from fairgate.trials.chaos import ChaosPlan, run_chaos

    place, console = place_of(folder, "fairgate-run-"), Console()
    with progress_bar() as progress:
        plan = ChaosPlan(seed if seed >= 0 else randrange(10_000), seconds, replicas)
        kept = run_chaos(plan, place, console, progress)
    end_run(kept, place)
