"""`fairgate gateway`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fairgate.errors import CommandError


def gateway(config: Annotated[Path, typer.Option(help="The gateway's configuration (YAML).")]) -> None:
    """Run the gateway alone, in front of the workers that its configuration names."""
    from gateway.errors import GatewayError
    from gateway.main import run

    try:
        run(config)
    except GatewayError as error:
        raise CommandError(str(error)) from None
