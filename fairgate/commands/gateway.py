"""`fairgate gateway`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from fairgate.errors import CommandError


def gateway(
    config: Annotated[Path, typer.Option(help="The gateway's configuration (YAML).")],
    processes: Annotated[
        str, typer.Option(help="How many processes share the port and the queue; auto: one per core.")
    ] = "1",
) -> None:
    """Run the gateway alone, in front of the workers that its configuration names.

    Several processes share one queue over the store that the configuration names, or else over one that is started for
    them and ends with them: pip install 'fairgate\\[store]'.
    """
    from gateway.config.load import load_config
    from gateway.errors import GatewayError
    from gateway.main import run

    many = _count(processes)
    try:
        if many == 1:
            run(config)
        else:
            from fairgate.topology.supervisor import supervise

            supervise(load_config(config), many)
    except GatewayError as error:
        raise CommandError(str(error)) from None


def _count(processes: str) -> int:
    """Raises CommandError."""
    if processes == "auto":
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not re.fullmatch("[1-9][0-9]{0,2}", processes):
        raise CommandError(f"--processes {processes!r}: expected auto, or a number from 1 to 999")
    return int(processes)
