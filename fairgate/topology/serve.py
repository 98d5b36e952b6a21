"""`fairgate serve`: a worker and a gateway as two processes that meet over HTTP, until Ctrl-C."""

from __future__ import annotations

import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from fairgate.topology.processes import Program, Stopped, free_port, go_on, running, stop_signals, write_config

START_TIMEOUT_S = 900.0  # the first start converts the model
DEMO_KEYS = {"alice": "demo-alice", "bob": "demo-bob", "carol": "demo-carol"}


def demo_config(model: str, worker_port: int, gateway_port: int) -> dict[str, Any]:
    """The packaged demonstration, with this model and these ports."""
    settings: dict[str, Any] = yaml.safe_load(files("fairgate").joinpath("demo.yaml").read_text())
    settings["listen"] = {"host": "127.0.0.1", "port": gateway_port}
    pool = settings["pools"]["main"]
    pool["models"] = [model]
    pool["workers"] = [{"url": f"http://127.0.0.1:{worker_port}"}]
    return settings


def serve_demo(model: str, port: int) -> int:
    """Serve until a signal arrives or a program ends by itself. Returns the exit status."""
    console = Console()
    name = model.rstrip("/").rsplit("/", 1)[-1]
    worker_port = free_port(8100)
    worker_arguments = ("worker", "--model", model, "--served-name", name, "--port", str(worker_port))
    with tempfile.TemporaryDirectory(prefix="fairgate-") as folder, stop_signals() as signals:
        config = write_config(demo_config(name, worker_port, port), Path(folder) / "gateway.yaml")
        try:
            with running("worker", *worker_arguments) as worker:
                worker.wait_ready(f"http://127.0.0.1:{worker_port}/health", START_TIMEOUT_S, lambda: go_on(signals))
                with running("gateway", "gateway", "--config", str(config)) as gateway:
                    gateway.wait_ready(f"http://127.0.0.1:{port}/readyz", 60.0, lambda: go_on(signals))
                    console.print(_welcome(name, port), highlight=False, markup=False, soft_wrap=True)
                    _watch([worker, gateway], signals)
        except Stopped:
            console.print("stopped", highlight=False)
    return 0


def _watch(programs: list[Program], signals: list[int]) -> None:
    while True:
        go_on(signals)
        for program in programs:
            program.check()
        time.sleep(0.2)


def _welcome(model: str, port: int) -> str:
    return f"""
Fairgate serves {model} at http://127.0.0.1:{port}/v1 to three tenants: {", ".join(DEMO_KEYS)}.
Try it:

  curl -N http://127.0.0.1:{port}/v1/chat/completions \\
    -H 'Authorization: Bearer {DEMO_KEYS["alice"]}' -H 'Content-Type: application/json' \\
    -d '{{"model": "{model}", "stream": true, "temperature": 0,
         "messages": [{{"role": "user", "content": "What is the capital of France?"}}]}}'

Metrics: http://127.0.0.1:{port}/metrics   Ctrl-C ends it.
"""
