"""The worker's composition root: from a configuration to a server that runs until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path

import torch
import uvloop
from aiohttp import web
from rich.console import Console
from rich.progress import Progress

from backend.config import WorkerConfig
from backend.engine import Engine
from backend.lora import AdapterStore
from backend.model import Decoder, load_decoder
from backend.models_cache import resolve_model
from backend.peft_format import load_adapter
from backend.server import WorkerServer
from backend.spec import read_spec
from backend.tokenizer import Tokenizer
from backend.worker import EngineThread


def run(config: WorkerConfig) -> None:
    """Load the model and serve it until SIGTERM or SIGINT, then drain. Raises LoadError, AdapterError, OSError."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s: %(message)s")
    torch.set_num_threads(config.threads or os.cpu_count() or 1)
    folder = resolve_model(config.model)
    _say(f"loading {config.name} from {folder} in {config.dtype}")
    decoder = _load(folder, config)
    tokenizer = Tokenizer(folder)
    adapters = AdapterStore(decoder.spec, decoder.dtype)
    engine = Engine(decoder, tokenizer, adapters, config)
    for name, path in config.adapters.items():
        _say(f"loading adapter {name} from {path}")
        engine.load_adapter(load_adapter(name, Path(path), decoder.spec))
    thread = EngineThread(engine)
    server = WorkerServer(config, decoder.spec, tokenizer, adapters, thread)
    uvloop.run(_serve(config, server, thread))


def _load(folder: Path, config: WorkerConfig) -> Decoder:
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("Loading layers", total=len(read_spec(folder).layers))
        dtype = getattr(torch, config.dtype)
        return load_decoder(folder, dtype, config.max_len, on_layer=lambda: progress.advance(task))


async def _serve(config: WorkerConfig, server: WorkerServer, engine: EngineThread) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    runner = web.AppRunner(server.app(), handler_cancellation=True, access_log=None)
    await runner.setup()
    engine.start()
    try:
        site = web.TCPSite(runner, config.host, config.port, backlog=1024, shutdown_timeout=1.0)
        await site.start()
        _say(_ready_line(config, runner))
        await stop.wait()
        await _drain(config, server, engine)
    finally:
        await runner.cleanup()
        engine.stop()


def _ready_line(config: WorkerConfig, runner: web.AppRunner) -> str:
    port = runner.addresses[0][1]
    facts = f"model {config.name}, KV tokens {config.pages_tokens}, slots {config.max_running}"
    mode = ", deterministic" if config.deterministic else ""
    return f"worker ready on http://{config.host}:{port} ({facts}{mode})"


async def _drain(config: WorkerConfig, server: WorkerServer, engine: EngineThread) -> None:
    """Refuse new requests, and give those that are here `drain_s` seconds to end."""
    server.begin_drain()
    _say(f"worker draining: {engine.open_requests} requests open, at most {config.drain_s:g} s")
    try:
        async with asyncio.timeout(config.drain_s):
            await engine.idle()
    except TimeoutError:
        _say(f"worker stops with {engine.open_requests} requests unfinished")


def _say(line: str) -> None:
    print(line, flush=True)
