"""The worker's composition root: from a configuration to a server that runs until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import uvloop
from aiohttp import web
from rich.console import Console
from rich.progress import Progress

from backend.errors import ListenError
from backend.models.cache import resolve_model
from backend.models.decoder import Decoder, load_decoder
from backend.models.lora import AdapterStore
from backend.models.peft_format import load_adapter
from backend.models.spec import read_spec
from backend.models.tokenizer import Tokenizer
from backend.worker.config import WorkerConfig
from backend.worker.engine import Engine
from backend.worker.server import WorkerServer
from backend.worker.thread import EngineThread


@dataclass(frozen=True, slots=True)
class Worker:
    """A loaded model, its engine and its HTTP edge."""

    config: WorkerConfig
    engine: EngineThread
    server: WorkerServer


def run(config: WorkerConfig) -> None:
    """Load the model and serve it until SIGTERM or SIGINT, then drain. Raises LoadError, AdapterError, ListenError."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s: %(message)s")
    torch.set_num_threads(config.threads or max(1, (os.cpu_count() or 1) - 1))
    uvloop.run(_serve(assemble(config)))


def assemble(config: WorkerConfig) -> Worker:
    """Load what `config` names. Raises LoadError, AdapterError."""
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
    return Worker(config, thread, WorkerServer(config, decoder.spec, tokenizer, adapters, thread))


@asynccontextmanager
async def listening(worker: Worker) -> AsyncIterator[str]:
    """Serve `worker` inside the block; yields its URL. Raises ListenError."""
    config = worker.config
    runner = web.AppRunner(worker.server.app(), handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    worker.engine.start()
    try:
        await _listen(runner, config)
        yield f"http://{config.host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
        worker.engine.stop()


def _load(folder: Path, config: WorkerConfig) -> Decoder:
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("Loading layers", total=len(read_spec(folder).layers))
        dtype = getattr(torch, config.dtype)
        return load_decoder(folder, dtype, config.max_len, on_layer=lambda: progress.advance(task))


async def _listen(runner: web.AppRunner, config: WorkerConfig) -> None:
    try:
        await web.TCPSite(runner, config.host, config.port, backlog=1024).start()
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise ListenError(f"cannot listen on {config.host}:{config.port}: {why}") from None


async def _serve(worker: Worker) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    config = worker.config
    async with listening(worker) as url:
        mode = ", deterministic" if config.deterministic else ""
        facts = f"model {config.name}, KV tokens {config.cache_tokens}, slots {config.max_running}{mode}"
        _say(f"worker ready on {url} ({facts})")
        await stop.wait()
        await drain(worker)


async def drain(worker: Worker) -> None:
    """Refuse new requests, and give those that are here `drain_s` seconds to end."""
    worker.server.begin_drain()
    engine, seconds = worker.engine, worker.config.drain_s
    _say(f"worker draining: {engine.open_requests} requests open, at most {seconds:g} s")
    try:
        async with asyncio.timeout(seconds):
            await engine.idle()
    except TimeoutError:
        _say(f"worker stops with {engine.open_requests} requests unfinished")


def _say(line: str) -> None:
    print(line, flush=True)
