"""`fairgate calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fairgate.commands.options import one_of
from fairgate.commands.output import write_text


def calibrate(
    url: Annotated[str, typer.Option(help="An engine that is otherwise idle (the worker itself, not the gateway).")],
    key: Annotated[str, typer.Option(help="API key, where the engine wants one.")] = "",
    model: Annotated[str, typer.Option(help="Model to measure; the first that the engine offers.")] = "",
    kind: Annotated[str, typer.Option(help="profiled or piecewise; the better fit.")] = "",
    out: Annotated[Path | None, typer.Option(help="Write the YAML here instead of to the terminal.")] = None,
) -> None:
    """Measure an engine's prefill and decode times and fit a cost function that the gateway can read."""
    import asyncio
    import sys

    from fairgate.progress import progress_bar
    from loadgen.calibration.calibrate import calibrate as run_calibration
    from loadgen.calibration.calibrate import markdown, to_yaml

    one_of("--kind", kind, "", "profiled", "piecewise")
    with progress_bar() as progress:
        calibration = asyncio.run(run_calibration(url, model=model, key=key, progress=progress))
    print(markdown(calibration), file=sys.stderr)
    if out:
        write_text(out, to_yaml(calibration, kind))
        typer.echo(f"written: {out}")
    else:
        print(to_yaml(calibration, kind))
