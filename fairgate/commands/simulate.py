"""`fairgate simulate`, and the workloads that it knows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fairgate.commands.extras import need_report
from fairgate.commands.options import JsonFile, TimeScale, WorkloadName, items_of
from fairgate.commands.output import write_json, write_report

Policies = Annotated[
    str,
    typer.Option(
        "--policy",
        help="Policies to run, comma-separated: vtc, fcfs, lcf, rr, rpm:LIMIT (requests a minute), drr:QUANTUM.",
    ),
]
Cost = Annotated[
    str, typer.Option(help="What a token costs: weighted:INPUT,OUTPUT or profiled[:a=..,b=..,c=..,d=..,e=..].")
]


def simulate(
    workload: WorkloadName,
    policy: Policies = "vtc,fcfs,lcf,rpm:20",
    weights: Annotated[
        Path | None, typer.Option(help="Tenant weights: YAML, JSON or CSV (header tenant,weight).")
    ] = None,
    cost: Cost = "weighted:1,2",
    predict: Annotated[
        str,
        typer.Option(help="Output length charged at dispatch: none, ewma, oracle, or an oracle's noise (0.5: ±50 %)."),
    ] = "none",
    engine: Annotated[
        str,
        typer.Option(
            help="a10g-7b, a100-13b, a100-13b-65k, and/or key=value: prefill_ms_per_token, decode_ms, "
            "decode_ms_per_seq, pool_tokens, max_running."
        ),
    ] = "a10g-7b",
    time_scale: TimeScale = 1.0,
    seed: Annotated[int, typer.Option(help="Jitters arrivals by up to 50 ms; 0: none.")] = 0,
    json_file: JsonFile = None,
    out: Annotated[Path | None, typer.Option(help="Write a report with pictures to this folder.")] = None,
) -> None:
    """Run a workload through the production scheduler in front of a simulated engine."""
    from rich.console import Console

    from fairgate.progress import progress_bar
    from loadgen.report.terminal import print_comparison
    from loadgen.simulator.simulate import simulate as run_simulation

    if out:
        need_report()
    with progress_bar() as progress:
        comparison = run_simulation(
            workload,
            items_of(policy),
            weights=weights,
            cost=cost,
            predict=predict,
            engine=engine,
            time_scale=time_scale,
            seed=seed,
            progress=progress,
        )
    print_comparison(comparison, Console())
    write_json(json_file, comparison.to_json())
    if out:
        write_report([comparison], out)


def workloads() -> None:
    """List the workloads that `simulate` and `load` know by name."""
    from rich.console import Console
    from rich.table import Table

    from loadgen.workloads.catalogue import WORKLOADS, load_workload

    table = Table("workload", "requests", "span", "tenants", box=None, pad_edge=False)
    for name in WORKLOADS:
        known = load_workload(name)
        requests = known.requests
        table.add_row(known.name, str(len(requests)), f"{requests[-1].t_s:.0f} s", str(len(known.tenants)))
    Console().print(table)
    Console().print(
        "A trace file (.csv or .csv.gz) has the header t_s,tenant,input_tokens,output_tokens,model,session."
    )
