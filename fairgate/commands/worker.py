"""`fairgate worker`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fairgate.commands.extras import needing
from fairgate.commands.options import Model, pair
from fairgate.errors import CommandError

if TYPE_CHECKING:
    from pydantic import ValidationError


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
    from pydantic import ValidationError

    with needing("worker", "the worker needs"):
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
            adapters=dict(pair("--adapter", item, "NAME=FOLDER") for item in adapter or []),
            deterministic=deterministic,
            threads=threads,
        )
    except ValidationError as error:
        raise CommandError(_option_errors(error)) from None
    try:
        run(settings)
    except WorkerError as error:
        raise CommandError(error.message) from None


def _option_errors(error: ValidationError) -> str:
    lines = [
        f"--{'-'.join(map(str, item['loc'])).replace('_', '-')} {item['input']!r}: {item['msg'].lower()}"
        if item["loc"]
        else item["msg"].removeprefix("Value error, ")
        for item in error.errors(include_url=False)
    ]
    return "; ".join(lines)
