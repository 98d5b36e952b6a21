"""The worker's composition root: from settings to a server that runs until it is told to stop."""

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

from backend.models.cache import resolve_model
from backend.models.decoder import Decoder, load_decoder
from backend.models.errors import ModelError
from backend.models.peft_format import load_adapter
from backend.models.spec import read_spec
from backend.models.tokenizer import Tokenizer
from backend.worker.config import WorkerSettings
from backend.worker.engine import Engine
from backend.worker.errors import ListenError, StartError
from backend.worker.lora import AdapterStore
from backend.worker.server import WorkerServer
from backend.worker.thread import EngineThread


@dataclass(frozen=True, slots=True)
class Worker:
    """A loaded model, its engine and its HTTP edge."""

    settings: WorkerSettings
    engine: EngineThread
    server: WorkerServer


def run(settings: WorkerSettings) -> None:
    """Load the model and serve it until SIGTERM or SIGINT, then drain. Raises StartError, ListenError."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s: %(message)s")
    torch.set_num_threads(settings.threads or max(1, (os.cpu_count() or 1) - 1))
    try:
        worker = assemble(settings)
    except ModelError as error:
        raise StartError(str(error)) from None
    uvloop.run(_serve(worker))


def assemble(settings: WorkerSettings) -> Worker:
    """Load what `settings` name. Raises LoadError, AdapterError; StartError for a device that is not there."""
    folder = resolve_model(settings.model)
    _say(f"loading {settings.name} from {folder} in {settings.dtype}")
    decoder = _load(folder, settings)
    tokenizer = Tokenizer(folder)
    adapters = AdapterStore(decoder.spec, decoder.dtype, decoder.device)
    engine = Engine(decoder, tokenizer, adapters, settings)
    for name, path in settings.adapters.items():
        _say(f"loading adapter {name} from {path}")
        engine.load_adapter(load_adapter(name, Path(path), decoder.spec))
    thread = EngineThread(engine)
    return Worker(settings, thread, WorkerServer(settings, decoder.spec, tokenizer, adapters, thread))


@asynccontextmanager
async def listening(worker: Worker) -> AsyncIterator[str]:
    """Serve `worker` inside the block; yields its URL. Raises ListenError."""
    settings = worker.settings
    runner = web.AppRunner(worker.server.app(), handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    worker.engine.start()
    try:
        await _listen(runner, settings)
        yield f"http://{settings.host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
        worker.engine.stop()


def _load(folder: Path, settings: WorkerSettings) -> Decoder:
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("Loading layers", total=len(read_spec(folder).layers))
        dtype, device = getattr(torch, settings.dtype), _device(settings.device)
        return load_decoder(folder, dtype, settings.max_len, device, lambda: progress.advance(task))


def _device(name: str) -> torch.device:
    """Raises StartError when this machine has no such device."""
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise StartError(f"device {name!r}: torch finds {torch.cuda.device_count()} CUDA devices here; expected cpu")
    return device


async def _listen(runner: web.AppRunner, settings: WorkerSettings) -> None:
    try:
        await web.TCPSite(runner, settings.host, settings.port, backlog=1024).start()
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise ListenError(f"cannot listen on {settings.host}:{settings.port}: {why}") from None


async def _serve(worker: Worker) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    settings = worker.settings
    async with listening(worker) as url:
        mode = ", deterministic" if settings.deterministic else ""
        facts = f"model {settings.name}, KV tokens {settings.cache_tokens}, slots {settings.max_running}{mode}"
        _say(f"worker ready on {url} ({facts})")
        await stop.wait()
        await drain(worker)


async def drain(worker: Worker) -> None:
    """Refuse new requests, and give those that are here `drain_s` seconds to end."""
    worker.server.begin_drain()
    engine, seconds = worker.engine, worker.settings.drain_s
    _say(f"worker draining: {engine.open_requests} requests open, at most {seconds:g} s")
    try:
        async with asyncio.timeout(seconds):
            await engine.idle()
    except TimeoutError:
        _say(f"worker stops with {engine.open_requests} requests unfinished")


def _say(line: str) -> None:
    print(line, flush=True)
