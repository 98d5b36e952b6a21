"""`fairgate mock-engine`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
