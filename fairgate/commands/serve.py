"""`fairgate serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from fairgate.commands.options import Model


def serve(
    port: Annotated[int, typer.Option(help="Port of the endpoint on 127.0.0.1.")] = 8080,
    model: Model = "smollm2",
) -> None:
    """Serve a real model to three demo tenants through the fair queue. Ctrl-C ends it.

    Two processes that meet over HTTP: a worker, and a gateway in front. With your own configuration, run
    `fairgate worker` and `fairgate gateway --config FILE` instead.
    """
    from fairgate.topology.demo import serve_demo

    raise typer.Exit(serve_demo(model, port))
