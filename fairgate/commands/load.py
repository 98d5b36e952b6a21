"""`fairgate load`."""

from __future__ import annotations

from typing import Annotated

import typer

from fairgate.commands.options import FirstSeconds, JsonFile, TimeScale, WorkloadName, pair, workload_of
from fairgate.commands.output import write_json


def load(
    workload: WorkloadName,
    key: Annotated[list[str], typer.Option(help="A tenant of the workload and its API key, TENANT=KEY. Repeatable.")],
    url: Annotated[str, typer.Option(help="The endpoint.")] = "http://127.0.0.1:8080",
    model: Annotated[str, typer.Option(help="The model to ask for where the workload names none.")] = "smollm2",
    seconds: FirstSeconds = 0.0,
    time_scale: TimeScale = 1.0,
    drain: Annotated[float, typer.Option(help="Seconds to wait for what runs after the last arrival.")] = 60.0,
    json_file: JsonFile = None,
) -> None:
    """Send a workload over HTTP to a running endpoint, each request at its time, and measure what comes back."""
    import asyncio

    from rich.console import Console

    from fairgate.progress import progress_bar
    from loadgen.client.open_loop import run_load
    from loadgen.client.target import Target
    from loadgen.report.load_table import load_to_json, print_load

    keys = dict(pair("--key", item, "TENANT=KEY") for item in key)
    target = Target(url, keys, model, drain_s=drain)
    known = workload_of(workload, time_scale, seconds)
    with progress_bar() as progress:
        record = asyncio.run(run_load(target, known.requests, progress=progress))
    print_load(record, Console())
    write_json(json_file, load_to_json(record))
