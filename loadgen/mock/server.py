"""The mock engine as a server: the clock that drives the batch, its service log, and the routes."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import uvloop

from loadgen.mock.engine import BatchEngine, EngineSettings, Generation
from loadgen.mock.http import BadRequest, HttpConnection, HttpRequest, Reply
from loadgen.mock.log import ServiceLogWriter
from loadgen.mock.openai import CHAT, COMPLETIONS, Stream, read_ask

HOST = "127.0.0.1"
BACKLOG = 1024


class MockServer:
    """One engine on 127.0.0.1. Steps are due every `step_s` from the start on; when late they follow at once."""

    def __init__(self, settings: EngineSettings, log: Path) -> None:
        self.settings = settings
        self.engine = BatchEngine(settings)
        self.port = 0
        self._log = ServiceLogWriter(log, settings, time.time())
        self._transports: set[asyncio.Transport] = set()
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._pages: dict[str, Callable[[], bytes]] = {
            "/health": lambda: b"",
            "/metrics": lambda: metrics(self.engine).encode(),
            "/v1/models": lambda: json.dumps({"object": "list", "data": [{"id": settings.model}]}).encode(),
        }

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    async def start(self, port: int = 0) -> None:
        """Listen (0: on any free port) and begin to step. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: HttpConnection(self, self._transports), HOST, port, backlog=BACKLOG
        )
        self.port = int(self._server.sockets[0].getsockname()[1])
        self._due = loop.time()
        self._tick()

    async def close(self) -> None:
        """Stop at once: what runs is cut off. May be repeated."""
        if self._timer is not None:
            self._timer.cancel()
        if self._server is not None:
            self._server.close()
            for transport in list(self._transports):
                transport.abort()
            await self._server.wait_closed()
        self._log.close()

    def answer(self, request: HttpRequest, reply: Reply) -> None:
        """Called by the connections. Raises BadRequest."""
        if (page := self._pages.get(request.path)) is not None:
            reply.whole(200, page(), "application/json" if request.path.startswith("/v1") else "text/plain")
        elif request.path in (CHAT, COMPLETIONS) and request.method == "POST":
            self._submit(request, reply)
        else:
            raise BadRequest(404, f"unknown URL: {request.method} {request.path}")

    def _submit(self, request: HttpRequest, reply: Reply) -> None:
        ask = read_ask(request.path, request.body)
        if ask.model != self.settings.model:
            raise BadRequest(404, f"the model {ask.model!r} does not exist; expected {self.settings.model!r}")
        if ask.input_tokens >= self.settings.kv_tokens:
            raise BadRequest(400, f"{ask.input_tokens} input tokens; expected fewer than {self.settings.kv_tokens}")
        stream = Stream(ask, request.request_id, reply)
        generation = Generation(request.request_id, ask.tenant, ask.input_tokens, ask.max_tokens, stream.produced)
        reply.on_gone = generation.abort
        self.engine.submit(generation)
        self._log.arrived(time.time(), generation)

    def _tick(self) -> None:
        self._step()
        self._due += self.settings.step_s
        self._timer = asyncio.get_running_loop().call_at(self._due, self._tick)

    def _step(self) -> None:
        """The log first: a token that a client has stands in it, whatever happens to this process."""
        events = self.engine.step(self._due)
        self._log.write(time.time(), events, self.engine.peaks if self.engine.peaks_rose else None)
        for event in events:
            if event.kind == "output":
                event.generation.on_token(event.generation.produced)


def metrics(engine: BatchEngine) -> str:
    """What a gateway reads of vLLM's /metrics; KV tokens are blocks of one token."""
    settings = engine.settings
    labels = f'block_size="1",num_gpu_blocks="{settings.kv_tokens}",max_num_seqs="{settings.slots}"'
    model = f'{{model_name="{settings.model}"}}'
    return (
        f"vllm:cache_config_info{{{labels}}} 1.0\n"
        f"vllm:num_requests_running{model} {len(engine.running)}\n"
        f"vllm:num_requests_waiting{model} {len(engine.waiting)}\n"
        f"vllm:kv_cache_usage_perc{model} {engine.tokens_held() / settings.kv_tokens}\n"
    )


def run(settings: EngineSettings, port: int, log: Path) -> None:
    """Serve until SIGINT or SIGTERM. Raises OSError when the port is taken or the log cannot be written."""
    uvloop.run(_serve(settings, port, log))


async def _serve(settings: EngineSettings, port: int, log: Path) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = MockServer(settings, log)
    try:
        await server.start(port)
        print(f"mock engine {settings.model} on {server.url}", flush=True)
        await stop.wait()
    finally:
        await server.close()
