"""A scriptable engine: a real HTTP server on a free port that speaks the protocol of vLLM as far as a gateway sees it.

What a request gets is decided by `Script`: the next of `engine.scripts`, else `engine.default`. A script may stop at
named points until the test lets it go on, so that no test has to sleep.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Json = dict[str, Any]


@dataclass
class Script:
    """How one request is answered.

    `text` per choice, one chunk per item; None: `max_tokens` times "x". `tokens_per_chunk` counts in usage.
    `hold_before`: wait for `engine.go` before the n-th chunk (0: before the head of the answer is sent).
    `die_before`: drop the connection before the n-th chunk (0: before the head). `error_before`: an SSE error event.
    `cut`: write the stream in pieces of that many bytes. `status` other than 200: `body` as JSON.
    """

    text: list[list[str]] | None = None
    tokens_per_chunk: int = 1
    hold_before: int | None = None
    die_before: int | None = None
    error_before: int | None = None
    error: Json = field(default_factory=lambda: {"message": "worker died", "type": "InternalServerError", "code": 500})
    cut: int | None = None
    status: int = 200
    body: Json = field(default_factory=lambda: {"error": {"message": "no", "type": "x", "param": None, "code": None}})
    headers: dict[str, str] = field(default_factory=dict)
    usage: bool = True
    prompt_tokens: int = 7
    cached_tokens: int = 0
    deltas: list[list[Json]] | None = None
    raw: bytes | None = None
    finish: str = "stop"


class Engine:
    """`seen` holds the bodies in the order they came, `order` their `user` fields, `aborted` how many clients left."""

    def __init__(self, **default: Any) -> None:
        self.default = Script(**default)
        self.scripts: deque[Script] = deque()
        self.seen: list[Json] = []
        self.headers: list[dict[str, str]] = []
        self.alive = True
        self.metrics = ""
        self.knows_continuous_usage = True
        self.active = 0
        self.most_active = 0
        self.aborted = 0
        self.probes = 0
        self.go = asyncio.Event()
        self.changed = asyncio.Condition()
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> Engine:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._generate)
        app.router.add_post("/v1/completions", self._generate)
        app.router.add_post("/v1/embeddings", self._generate)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        await self.listen()
        return self

    async def listen(self) -> None:
        assert self._runner is not None
        self._site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await self._site.start()
        self.port = self._runner.addresses[0][1]

    async def refuse_connections(self) -> None:
        """Stop listening; what is connected stays."""
        assert self._site is not None
        await self._site.stop()

    async def stop(self) -> None:
        self.go.set()
        if self._runner is not None:
            await self._runner.cleanup()

    async def until(self, reached: Any) -> None:
        """Wait until `reached()`; it is looked at whenever a request begins, holds or ends."""
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(reached)

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def _health(self, request: web.Request) -> web.Response:
        self.probes += 1
        return web.Response(status=200 if self.alive else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=self.metrics)

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        script = self.scripts.popleft() if self.scripts else self.default
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        await self._tell()
        try:
            return await self._answer(request, body, script)
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        finally:
            self.active -= 1
            await asyncio.shield(self._tell())

    async def _answer(self, request: web.Request, body: Json, script: Script) -> web.StreamResponse:
        if (body.get("stream_options") or {}).get("continuous_usage_stats") and not self.knows_continuous_usage:
            error = {"message": "stream_options.continuous_usage_stats: extra inputs are not permitted"}
            return web.json_response({"error": error}, status=400)
        if script.status != 200:
            return web.json_response(script.body, status=script.status, headers=script.headers)
        await self._pass(request, script, 0)
        if not body.get("stream"):
            return await self._whole(request, body, script)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await self._stream(request, response, body, script)
        await response.write_eof()
        return response

    async def _whole(self, request: web.Request, body: Json, script: Script) -> web.StreamResponse:
        """In two pieces; what a script does before a later chunk of a stream it does here between them."""
        answer = (
            {"error": script.error} if script.error_before is not None else whole_answer(request.path, body, script)
        )
        data = script.raw if script.raw is not None else json.dumps(answer).encode()
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(data))})
        await response.prepare(request)
        await response.write(data[: len(data) // 2])
        await self._pass(request, script, script.hold_before or script.die_before or 0)
        await response.write(data[len(data) // 2 :])
        await response.write_eof()
        return response

    async def _stream(self, request: web.Request, response: web.StreamResponse, body: Json, script: Script) -> None:
        if script.raw is not None:
            await response.write(script.raw)
            return
        for number, chunk in enumerate(stream_chunks(request.path, body, script), start=1):
            await self._pass(request, script, number)
            if script.error_before == number:
                chunk = {"error": script.error}
            await _write(response, b"data: " + json.dumps(chunk).encode() + b"\n\n", script.cut)
        await _write(response, b"data: [DONE]\n\n", script.cut)

    async def _pass(self, request: web.Request, script: Script, number: int) -> None:
        if script.hold_before == number:
            await self.go.wait()
        if script.die_before == number:
            assert request.transport is not None
            request.transport.abort()
            raise ConnectionResetError


async def _write(response: web.StreamResponse, data: bytes, cut: int | None) -> None:
    step = cut or len(data)
    for start in range(0, len(data), step):
        await response.write(data[start : start + step])


def _texts(body: Json, script: Script) -> list[list[str]]:
    n = body.get("n") or 1
    return script.text or [["x"] * (body.get("max_tokens") or body.get("max_completion_tokens") or 3)] * n


def _usage(script: Script, produced: int) -> Json:
    usage: Json = {
        "prompt_tokens": script.prompt_tokens,
        "completion_tokens": produced,
        "total_tokens": script.prompt_tokens + produced,
    }
    if script.cached_tokens:
        usage["prompt_tokens_details"] = {"cached_tokens": script.cached_tokens}
    return usage


def _head(path: str, body: Json, *, chunk: bool) -> Json:
    kind = ("chat.completion.chunk" if chunk else "chat.completion") if "chat" in path else "text_completion"
    return {"id": "r-1", "object": kind, "created": 1, "model": body["model"], "system_fingerprint": "fp"}


def stream_chunks(path: str, body: Json, script: Script) -> list[Json]:
    """The chunks of a streamed answer: choices interleaved, as engines do it."""
    options = body.get("stream_options") or {}
    chat = "chat" in path
    texts = _texts(body, script)
    deltas = script.deltas or [[{"content": part} for part in parts] for parts in texts]
    chunks = []
    if chat:
        chunks += [_chunk(path, body, i, {"role": "assistant", "content": ""}, None) for i in range(len(deltas))]
    rows = [(i, k) for k in range(max(map(len, deltas))) for i in range(len(deltas)) if k < len(deltas[i])]
    for i, k in rows:
        last = k == len(deltas[i]) - 1
        chunks.append(_chunk(path, body, i, deltas[i][k], script.finish if last else None))
    if options.get("continuous_usage_stats") and script.usage:
        made = dict.fromkeys(range(len(deltas)), 0)
        for chunk in chunks:
            index = chunk["choices"][0]["index"]
            made[index] += script.tokens_per_chunk if _carries(chunk) else 0
            chunk["usage"] = _usage(script, made[index])
    if options.get("include_usage") and script.usage:
        total = sum(len(parts) for parts in deltas) * script.tokens_per_chunk
        chunks.append({**_head(path, body, chunk=True), "choices": [], "usage": _usage(script, total)})
    return chunks


def _carries(chunk: Json) -> bool:
    choice = chunk["choices"][0]
    return "role" not in choice.get("delta", {})


def _chunk(path: str, body: Json, index: int, delta: Json, finish: str | None) -> Json:
    choice: Json = {"index": index, "logprobs": None, "finish_reason": finish}
    if "chat" in path:
        choice["delta"] = delta
        if body.get("logprobs") and delta.get("content"):
            choice["logprobs"] = {"content": [{"token": delta["content"], "logprob": -0.5, "top_logprobs": []}]}
    else:
        choice["text"] = delta["content"]
        if body.get("logprobs"):
            choice["logprobs"] = {"tokens": [delta["content"]], "token_logprobs": [-0.5], "text_offset": [0]}
    return {**_head(path, body, chunk=True), "choices": [choice]}


def whole_answer(path: str, body: Json, script: Script) -> Json:
    """What this engine sends without streaming."""
    choices = []
    texts = _texts(body, script)
    for index, parts in enumerate(texts):
        choice: Json = {"index": index, "logprobs": None, "finish_reason": script.finish}
        if "chat" in path:
            choice["message"] = {"role": "assistant", "content": "".join(parts)}
            if body.get("logprobs"):
                tokens = [{"token": part, "logprob": -0.5, "top_logprobs": []} for part in parts]
                choice["logprobs"] = {"content": tokens}
        else:
            choice["text"] = "".join(parts)
            if body.get("logprobs"):
                choice["logprobs"] = {
                    "tokens": list(parts),
                    "token_logprobs": [-0.5] * len(parts),
                    "text_offset": [0] * len(parts),
                }
        choices.append(choice)
    total = 0 if "embeddings" in path else sum(map(len, texts)) * script.tokens_per_chunk
    return {**_head(path, body, chunk=False), "choices": choices, "usage": _usage(script, total)}
