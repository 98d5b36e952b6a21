"""The `fairgate` command: the only place that knows all programs. Each is imported when its command runs."""

from __future__ import annotations

import io
import sys

import typer

from fairgate.commands.bench import bench
from fairgate.commands.calibrate import calibrate
from fairgate.commands.chaos import chaos
from fairgate.commands.cluster import cluster
from fairgate.commands.compare import arena, compare
from fairgate.commands.gateway import gateway
from fairgate.commands.load import load
from fairgate.commands.mock_engine import mock_engine
from fairgate.commands.replicas import replicas
from fairgate.commands.serve import serve
from fairgate.commands.simulate import simulate, workloads
from fairgate.commands.worker import worker
from fairgate.errors import CommandError, FairgateError
from fairgate.native import stale

COMMANDS = (
    *(serve, cluster, gateway, worker, mock_engine),
    *(simulate, workloads, load, compare, arena, calibrate, chaos),
)

app = typer.Typer(
    name="fairgate",
    help="Fairgate shares LLM deployments fairly between tenants: a gateway with a fair queue, a worker, a simulator.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in COMMANDS:
    app.command()(command)
app.add_typer(replicas, name="replicas")
app.add_typer(bench, name="bench")


def main() -> None:
    """Run the command line. Bad input ends in one message and exit status 2, never in a stack trace. A
    character that the terminal's encoding lacks becomes a question mark."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        if why := stale():
            raise CommandError(why)
        app()
    except (ValueError, FairgateError, OSError) as error:
        print(f"fairgate: {error}", file=sys.stderr)
        raise SystemExit(2) from None
