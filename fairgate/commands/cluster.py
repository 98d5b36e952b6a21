"""`fairgate cluster`."""

from __future__ import annotations

from typing import Annotated

import typer

from fairgate.commands.options import Folder, Model, place_of


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
    folder: Folder = None,
) -> None:
    """Serve through several gateways that give one fair share: store, workers, gateways, nginx. Ctrl-C ends it.

    What compose.yaml runs as containers, as processes of this machine. nginx and Prometheus take part where they are
    installed.
    """
    from fairgate.topology.demo import cluster_plan, serve_cluster

    place = place_of(folder, "fairgate-cluster-")
    plan = cluster_plan(place, gateways=gateways, workers=workers, model=model, mock=mock, port=port)
    raise typer.Exit(serve_cluster(plan))
