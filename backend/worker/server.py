"""The worker's HTTP edge: OpenAI's endpoints, vLLM's for health, metrics and adapters.

While the worker drains, new requests get 503 and /health turns 503 too (vLLM keeps it 200), so that whoever routes
by it stops sending; running streams go on.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

from backend.models.errors import AdapterError, ChatError, ModelError
from backend.models.peft_format import Adapter, load_adapter
from backend.models.spec import ModelSpec
from backend.models.tokenizer import Tokenizer
from backend.worker.config import WorkerSettings
from backend.worker.engine import Output, Request
from backend.worker.errors import BadRequest, BodyTooLarge, ModelNotFound, NotFound, Overloaded, WorkerError
from backend.worker.lora import AdapterStore
from backend.worker.metrics import exposition
from backend.worker.protocol import ChatBody, CompletionBody, GenerateBody, LoadAdapterBody, UnloadAdapterBody, parse
from backend.worker.replies import DONE, Replies, event, model_card, usage
from backend.worker.thread import EngineThread

log = logging.getLogger(__name__)


class WorkerServer:
    """Handlers over one engine. `begin_drain` refuses what comes after it."""

    def __init__(
        self,
        settings: WorkerSettings,
        spec: ModelSpec,
        tokenizer: Tokenizer,
        adapters: AdapterStore,
        engine: EngineThread,
    ) -> None:
        self._settings = settings
        self._spec = spec
        self._tokenizer = tokenizer
        self._adapters = adapters
        self._engine = engine
        self._created = int(time.time())
        self._metrics = exposition(settings, lambda: engine.stats)
        self._draining = False

    def app(self) -> web.Application:
        app = web.Application(middlewares=[_errors_as_json], client_max_size=self._settings.max_body_bytes)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._show_metrics)
        app.router.add_post("/v1/load_lora_adapter", self._load_adapter)
        app.router.add_post("/v1/unload_lora_adapter", self._unload_adapter)
        return app

    def begin_drain(self) -> None:
        self._draining = True

    async def _chat(self, http: web.Request) -> web.StreamResponse:
        body = parse(ChatBody, await http.read())
        adapter = self._find(body.model)
        messages = [message.flat() for message in body.messages]
        prompt = await asyncio.to_thread(self._tokenizer.encode_chat, messages)
        return await self._answer(http, body, prompt, adapter, chat=True)

    async def _complete(self, http: web.Request) -> web.StreamResponse:
        body = parse(CompletionBody, await http.read())
        adapter = self._find(body.model)
        prompt = await asyncio.to_thread(self._prompt_tokens, body)
        return await self._answer(http, body, prompt, adapter, chat=False)

    def _prompt_tokens(self, body: CompletionBody) -> list[int]:
        """Raises BadRequest."""
        match body.prompt:
            case str(text) | [str(text)]:
                prompt = self._tokenizer.encode(text)
            case tokens:
                prompt = [int(token) for token in tokens]
        if not prompt:
            raise BadRequest("the prompt is empty; expected at least one token", "prompt")
        wrong = next((token for token in prompt if not 0 <= token < self._spec.vocab), None)
        if wrong is not None:
            raise BadRequest(f"prompt token {wrong} is not in the vocabulary of {self._spec.vocab}", "prompt")
        return prompt

    def _find(self, model: str) -> Adapter | None:
        """The adapter named `model`, None for the base model. Raises ModelNotFound."""
        if model == self._settings.name:
            return None
        adapter = self._adapters.find(model)
        if adapter is None:
            raise ModelNotFound(f"the model {model!r} is not served here; GET /v1/models lists those that are", "model")
        return adapter

    async def _answer(
        self, http: web.Request, body: GenerateBody, prompt: list[int], adapter: Adapter | None, *, chat: bool
    ) -> web.StreamResponse:
        if self._draining:
            raise Overloaded("this worker is shutting down")
        params = body.params(len(prompt), self._settings.longest, self._spec.sampling)
        request = Request(uuid.uuid4().hex, tuple(prompt), params, adapter)
        reply_id = _given_id(http) or f"{'chatcmpl' if chat else 'cmpl'}-{request.id}"
        replies = Replies(chat, reply_id, body.model, int(time.time()))
        async with self._engine.generate(request) as outputs:
            if body.stream:
                return await _stream(http, body, replies, len(prompt), outputs)
            return await _whole(replies, len(prompt), outputs)

    async def _models(self, http: web.Request) -> web.Response:
        base = model_card(self._settings.name, self._created, self._settings.longest, None)
        tuned = [
            model_card(adapter.name, self._created, self._settings.longest, self._settings.name)
            for adapter in self._adapters.loaded
        ]
        return web.json_response({"object": "list", "data": [base, *tuned]})

    async def _health(self, http: web.Request) -> web.Response:
        if self._draining or not self._engine.alive:
            return web.json_response({"status": "draining" if self._engine.alive else "engine died"}, status=503)
        return web.json_response({"status": "ok"})

    async def _show_metrics(self, http: web.Request) -> web.Response:
        return web.Response(body=self._metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _load_adapter(self, http: web.Request) -> web.Response:
        body = parse(LoadAdapterBody, await http.read())
        if body.lora_name == self._settings.name:
            raise BadRequest(f"{body.lora_name!r} is the base model; expected a name of its own", "lora_name")
        adapter = await asyncio.to_thread(load_adapter, body.lora_name, Path(body.lora_path), self._spec)
        await self._engine.load_adapter(adapter)
        return web.Response(text=f"Success: LoRA adapter {body.lora_name!r} added.")

    async def _unload_adapter(self, http: web.Request) -> web.Response:
        body = parse(UnloadAdapterBody, await http.read())
        await self._engine.unload_adapter(body.lora_name)
        return web.Response(text=f"Success: LoRA adapter {body.lora_name!r} removed.")


def _given_id(http: web.Request) -> str | None:
    """The id the client chose, if it is one that may stand in a log and in JSON."""
    given = http.headers.get("X-Request-Id", "")
    return given if 0 < len(given) <= 128 and given.isascii() and given.isprintable() else None


async def _whole(replies: Replies, prompt_tokens: int, outputs: AsyncIterator[Output]) -> web.Response:
    parts = [output async for output in outputs]
    text, last = "".join(part.text for part in parts), parts[-1]
    return web.json_response(replies.whole(text, last.finish or "stop", usage(prompt_tokens, last.tokens)))


async def _stream(
    http: web.Request, body: GenerateBody, replies: Replies, prompt_tokens: int, outputs: AsyncIterator[Output]
) -> web.StreamResponse:
    """Send every output as it comes. An error after the first byte becomes an event, and the stream ends there."""
    options = body.stream_options
    counted = options is not None and options.include_usage
    each = counted and options is not None and options.continuous_usage_stats
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(http)

    async def send(chunk: dict[str, object], tokens: int) -> None:
        await response.write(event({**chunk, "usage": usage(prompt_tokens, tokens)} if each else chunk))

    tokens = 0
    try:
        async for output in outputs:
            if replies.chat and not tokens:
                await send(replies.opening(), 0)
            tokens = output.tokens
            await send(replies.chunk(output.text, output.finish), tokens)
    except WorkerError as error:
        await response.write(event(error.body()))
    else:
        if counted:
            await response.write(event(replies.closing(usage(prompt_tokens, tokens))))
        await response.write(DONE)
    await response.write_eof()
    return response


@web.middleware
async def _errors_as_json(http: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(http)
    except web.HTTPRequestEntityTooLarge as error:
        return _refusal(BodyTooLarge(f"the body is larger than {http.client_max_size} bytes: {error.text}"))
    except web.HTTPNotFound:
        return _refusal(NotFound(f"{http.method} {http.path} does not exist"))
    except WorkerError as error:
        return _refusal(error)
    except ModelError as error:
        return _refusal(_error_of_model(error))
    except (web.HTTPException, ConnectionError):
        raise
    except Exception:
        log.exception("%s %s failed", http.method, http.path)
        return _refusal(WorkerError("the worker failed on this request; its log says why"))


def _error_of_model(error: ModelError) -> WorkerError:
    """What a client sees of an error of the model: its own fault where it named the adapter or wrote the messages."""
    match error:
        case AdapterError():
            return BadRequest(str(error), "lora_path")
        case ChatError():
            return BadRequest(str(error), "messages")
    return WorkerError(str(error))


def _refusal(error: WorkerError) -> web.Response:
    return web.json_response(error.body(), status=error.status)
