"""The `fairgate` command: the only place that knows all programs. Each is imported when its command runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from fairgate.commands.bench import bench_app
from fairgate.commands.trials import chaos, replicas_app
from fairgate.progress import progress_bar
from fairgate.topology.processes import ProcessError

app = typer.Typer(
    name="fairgate",
    help="Fairgate shares LLM deployments fairly between tenants: a gateway with a fair queue, a worker, a simulator.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(bench_app, name="bench")
app.add_typer(replicas_app, name="replicas")
app.command("chaos")(chaos)

Model = Annotated[str, typer.Option(help="smollm2, gemma3-270m, or a local Hugging Face folder.")]
TimeScale = Annotated[float, typer.Option(help="Above 1 stretches the arrivals, below 1 squeezes them.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the results to this file.")]
WorkloadName = Annotated[
    str, typer.Option(help="Name of a workload (`fairgate workloads` lists them) or a trace file.")
]
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


@contextmanager
def needing(extra: str, what: str) -> Iterator[None]:
    """Around the imports of a command. Raises ProcessError that says what to install where one is not there."""
    try:
        yield
    except ModuleNotFoundError as missing:
        raise ProcessError(
            f"{what} needs {missing.name}, which the base install leaves out: pip install 'fairgate[{extra}]'"
        ) from None


def out_of(spec: str) -> list[str]:
    """The items of a comma-separated option."""
    return [item.strip() for item in spec.split(",") if item.strip()]


@app.command()
def serve(
    port: Annotated[int, typer.Option(help="Port of the endpoint on 127.0.0.1.")] = 8080,
    model: Model = "smollm2",
) -> None:
    """Serve a real model to three demo tenants through the fair queue. Ctrl-C ends it.

    Two processes that meet over HTTP: a worker, and a gateway in front. With your own configuration, run
    `fairgate worker` and `fairgate gateway --config FILE` instead.
    """
    from fairgate.topology.serve import serve_demo

    raise typer.Exit(serve_demo(model, port))


@app.command()
def cluster(
    gateways: Annotated[int, typer.Option(help="How many gateways share the workers.", min=1)] = 2,
    workers: Annotated[int, typer.Option(help="How many workers there are.", min=1)] = 2,
    model: Model = "smollm2",
    mock: Annotated[
        bool, typer.Option("--mock", help="Engines without a model: starts at once, says nothing.")
    ] = False,
    port: Annotated[
        int, typer.Option(help="Port in front on 127.0.0.1; another free one if it is taken.", min=0, max=65535)
    ] = 8080,
    folder: Annotated[
        Path | None, typer.Option(help="Folder for configurations and logs; a new temporary one by default.")
    ] = None,
) -> None:
    """Serve through several gateways that give one fair share: store, workers, gateways, nginx. Ctrl-C ends it.

    What compose.yaml runs as containers, as processes of this machine. nginx and Prometheus take part where they are
    installed.
    """
    from tempfile import mkdtemp

    from fairgate.topology.cluster import Plan, serve_cluster

    place = (folder or Path(mkdtemp(prefix="fairgate-cluster-"))).absolute()
    raise typer.Exit(serve_cluster(Plan(place, gateways, workers, model, mock, port)))


@app.command()
def gateway(config: Annotated[Path, typer.Option(help="The gateway's configuration (YAML).")]) -> None:
    """Run the gateway alone, in front of the workers that its configuration names."""
    from gateway.errors import GatewayError
    from gateway.main import run

    try:
        run(config)
    except GatewayError as error:
        raise ProcessError(str(error)) from None


@app.command()
def worker(
    model: Model = "smollm2",
    served_name: Annotated[str, typer.Option(help="The model name that clients ask for; the model's own.")] = "",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any free one.")] = 8100,
    dtype: Annotated[str, typer.Option(help="float32, or bfloat16 (half the memory).")] = "float32",
    kv_tokens: Annotated[int, typer.Option(help="KV cache, in tokens over all requests.")] = 32768,
    max_running: Annotated[int, typer.Option(help="The most requests that decode together.")] = 16,
    max_len: Annotated[int, typer.Option(help="The most tokens of one request, prompt and output.")] = 2048,
    adapter: Annotated[list[str] | None, typer.Option(help="A LoRA adapter, NAME=FOLDER (PEFT). Repeatable.")] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Make outputs independent of what shares the batch; slower.")
    ] = False,
    threads: Annotated[int, typer.Option(help="Compute threads; 0: one per core, less one for HTTP.")] = 0,
) -> None:
    """Run a worker alone: an OpenAI-compatible engine with continuous batching and LoRA adapters."""
    with needing("worker", "the worker"):
        from backend.worker.config import WorkerSettings
        from backend.worker.errors import WorkerError
        from backend.worker.main import run
    try:
        settings = WorkerSettings(
            model=model,
            served_name=served_name,
            host=host,
            port=port,
            dtype=dtype,
            kv_tokens=kv_tokens,
            max_running=max_running,
            max_len=max_len,
            adapters=dict(_pair("--adapter", item, "NAME=FOLDER") for item in adapter or []),
            deterministic=deterministic,
            threads=threads,
        )
    except ValidationError as error:
        raise ProcessError(_option_errors(error)) from None
    try:
        run(settings)
    except WorkerError as error:
        raise ProcessError(error.message) from None


@app.command()
def mock_engine(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on at 127.0.0.1; 0: any free one.")],
    log: Annotated[Path, typer.Option(help="Append the service log to this file: who received which tokens when.")],
    slots: Annotated[int, typer.Option(help="The most requests that run together.")] = 16,
    kv_tokens: Annotated[int, typer.Option(help="KV cache, in tokens over all requests.")] = 8192,
    step_ms: Annotated[float, typer.Option(help="Milliseconds per step, which gives each request a token.")] = 20.0,
    prefill_us_per_token: Annotated[float, typer.Option(help="Microseconds per input token.")] = 0.0,
    model: Annotated[str, typer.Option(help="The model name that clients ask for.")] = "mock",
) -> None:
    """Run an engine without a model: exact token counts, exact times, and a log to judge gateways by."""
    from loadgen.mock.engine import EngineSettings
    from loadgen.mock.server import run

    run(EngineSettings(slots, kv_tokens, step_ms / 1e3, prefill_us_per_token / 1e6, model), port, log)


@app.command()
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
    from loadgen.report.terminal import print_comparison
    from loadgen.simulator.simulate import simulate as run_simulation

    if out:
        with needing("report", "the report"):
            from loadgen.report.page import write_report

    with progress_bar() as progress:
        comparison = run_simulation(
            workload,
            out_of(policy),
            weights=weights,
            cost=cost,
            predict=predict,
            engine=engine,
            time_scale=time_scale,
            seed=seed,
            progress=progress,
        )
    print_comparison(comparison, Console())
    _write_json(json_file, comparison.to_json())
    if out:
        with progress_bar() as progress:
            page = write_report([comparison], out, progress=progress)
        Console().print(f"report: {page}", soft_wrap=True)


@app.command()
def workloads() -> None:
    """List the workloads that `simulate` and `load` know by name."""
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


@app.command()
def load(
    workload: WorkloadName,
    key: Annotated[list[str], typer.Option(help="A tenant of the workload and its API key, TENANT=KEY. Repeatable.")],
    url: Annotated[str, typer.Option(help="The endpoint.")] = "http://127.0.0.1:8080",
    model: Annotated[str, typer.Option(help="The model to ask for where the workload names none.")] = "smollm2",
    seconds: Annotated[float, typer.Option(help="Send only what arrives in the first seconds; 0: all of it.")] = 0.0,
    time_scale: TimeScale = 1.0,
    drain: Annotated[float, typer.Option(help="Seconds to wait for what runs after the last arrival.")] = 60.0,
    json_file: JsonFile = None,
) -> None:
    """Send a workload over HTTP to a running endpoint, each request at its time, and measure what comes back."""
    from fairgate.trials.compare_live import send_workload
    from loadgen.client.target import Target
    from loadgen.report.load_table import load_to_json, print_load

    keys = dict(_pair("--key", item, "TENANT=KEY") for item in key)
    record = send_workload(Target(url, keys, model, drain_s=drain), workload, seconds, time_scale)
    print_load(record, Console())
    _write_json(json_file, load_to_json(record))


@app.command()
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
    from loadgen.report.terminal import print_comparison

    with needing("report", "the report"):
        from loadgen.report.page import write_report

    if suite not in ("default", "paper"):
        raise ProcessError(f"--suite {suite}: expected default or paper")
    if suite == "paper":
        from loadgen.paper.evaluation import reproduce_paper

        with progress_bar() as progress:
            page = reproduce_paper(out, progress=progress)
        Console().print(f"report: {page}", soft_wrap=True)
        return
    if live:
        from fairgate.trials.compare_live import compare_live

        comparisons = [compare_live(seconds, Console())]
    else:
        from loadgen.simulator.suite import compare_suite

        with progress_bar() as progress:
            comparisons = compare_suite(progress)
    for comparison in comparisons:
        print_comparison(comparison, Console())
    with progress_bar() as progress:
        page = write_report(comparisons, out, progress=progress)
    Console().print(f"report: {page}", soft_wrap=True)


@app.command()
def arena(
    seeds: Annotated[int, typer.Option(help="Jittered runs of each policy, averaged.", min=1)] = 10,
) -> None:
    """Reproduce table 2 of the VTC paper: the 27-client trace, beside the published figures."""
    from loadgen.paper.table2 import reproduce, table

    with progress_bar() as progress:
        found = reproduce(range(1, seeds + 1), progress=lambda part: progress("27 clients", part))
    Console().print(table(found, seeds))


@app.command()
def calibrate(
    url: Annotated[str, typer.Option(help="An engine that is otherwise idle (the worker itself, not the gateway).")],
    key: Annotated[str, typer.Option(help="API key, where the engine wants one.")] = "",
    model: Annotated[str, typer.Option(help="Model to measure; the first that the engine offers.")] = "",
    kind: Annotated[str, typer.Option(help="profiled or piecewise; the better fit.")] = "",
    out: Annotated[Path | None, typer.Option(help="Write the YAML here instead of to the terminal.")] = None,
) -> None:
    """Measure an engine's prefill and decode times and fit a cost function that the gateway can read."""
    import asyncio

    from loadgen.calibration.calibrate import calibrate as run_calibration
    from loadgen.calibration.calibrate import markdown, to_yaml

    if kind not in ("", "profiled", "piecewise"):
        raise ProcessError(f"--kind {kind}: expected profiled or piecewise")
    with progress_bar() as progress:
        calibration = asyncio.run(run_calibration(url, model=model, key=key, progress=progress))
    print(markdown(calibration), file=sys.stderr)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(to_yaml(calibration, kind))
        Console().print(f"written: {out}", soft_wrap=True)
    else:
        print(to_yaml(calibration, kind))


def _write_json(path: Path | None, results: dict[str, object]) -> None:
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=2) + "\n")


def _option_errors(error: ValidationError) -> str:
    lines = [
        f"--{'-'.join(map(str, item['loc'])).replace('_', '-')} {item['input']!r}: {item['msg'].lower()}"
        if item["loc"]
        else item["msg"].removeprefix("Value error, ")
        for item in error.errors(include_url=False)
    ]
    return "; ".join(lines)


def _pair(option: str, item: str, form: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not (name and equals and value):
        raise ProcessError(f"{option} {item}: expected {form}")
    return name, value


def main() -> None:
    """Run the command line. Bad input ends in one message and exit status 2, never in a stack trace."""
    try:
        app()
    except (ValueError, ProcessError, OSError) as error:
        print(f"fairgate: {error}", file=sys.stderr)
        raise SystemExit(2) from None
