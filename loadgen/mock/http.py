"""The HTTP edge of the mock engine: as much of vLLM's protocol as a gateway uses, at little CPU per token.

A protocol object per connection, because aiohttp's server would cost as much CPU as the gateways under test.
A connection carries one request at a time.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from loadgen.client.wire import CHAT

Json = dict[str, Any]
DEFAULT_MAX_TOKENS = 16


class BadRequest(Exception):
    """The client's fault: `status` and the message of the error body."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Call(NamedTuple):
    """A request that has arrived whole."""

    method: str
    path: str
    request_id: str
    body: bytes


class Ask(NamedTuple):
    """What a generation request wants."""

    chat: bool
    model: str
    tenant: str
    input_tokens: int
    max_tokens: int
    stream: bool
    usage: bool
    continuous_usage: bool


def read_ask(path: str, raw: bytes) -> Ask:
    """Parse a body. Raises BadRequest."""
    try:
        body = json.loads(raw)
        return _ask(path == CHAT, body)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise BadRequest(400, f"the body cannot be read: {error!r}") from None


def _ask(chat: bool, body: Json) -> Ask:
    options = body.get("stream_options") or {}
    max_tokens = body.get("max_completion_tokens") or body.get("max_tokens") or DEFAULT_MAX_TOKENS
    input_tokens = _chat_tokens(body["messages"]) if chat else _prompt_tokens(body["prompt"])
    if input_tokens < 1 or type(max_tokens) is not int or max_tokens < 1 or body.get("n", 1) != 1:
        raise BadRequest(400, "expected a prompt of at least one token, max_tokens of at least 1, and n = 1")
    usage = bool(options.get("include_usage"))
    return Ask(
        chat=chat,
        model=str(body["model"]),
        tenant=str(body.get("user", "")),
        input_tokens=input_tokens,
        max_tokens=max_tokens,
        stream=bool(body.get("stream")),
        usage=usage,
        continuous_usage=usage and bool(options.get("continuous_usage_stats")),
    )


def _prompt_tokens(prompt: str | list[int]) -> int:
    return len(prompt.split() if isinstance(prompt, str) else prompt)


def _chat_tokens(messages: list[Json]) -> int:
    return sum(len(str(message.get("content") or "").split()) for message in messages)


class Service(Protocol):
    """What stands behind the connections. Raises BadRequest."""

    def answer(self, call: Call, reply: Reply) -> None: ...


class Connection(asyncio.Protocol):
    """Reads requests, hands each to the service, and tells it when the client is gone."""

    def __init__(self, service: Service, transports: set[asyncio.Transport]) -> None:
        self._service = service
        self._transports = transports  # of all that are open
        self._parser = HttpRequestParser(self)
        self._reply: Reply | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transports.add(self._transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._transports.discard(self._transport)
        if self._reply is not None:
            self._reply.on_gone()

    # -- called by httptools -----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._path, self._request_id, self._body = b"", "", bytearray()

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-request-id":
            self._request_id = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        call = Call(self._parser.get_method().decode(), self._path.decode(), self._request_id, bytes(self._body))
        if self._reply is not None and not self._reply.over:  # two at once
            self._transport.abort()
            return
        reply = self._reply = Reply(self._transport, keep=self._parser.should_keep_alive())
        try:
            self._service.answer(call, reply)
        except BadRequest as error:
            reply.whole(error.status, _json({"error": {"message": str(error), "type": "invalid_request_error"}}))


def nothing() -> None:
    """Nobody needs to know."""


class Reply:
    """One answer on its way out. `on_gone` is called when the client leaves; `keep` the connection after the end."""

    def __init__(self, transport: asyncio.Transport, *, keep: bool) -> None:
        self._transport = transport
        self._keep = keep
        self.on_gone: Callable[[], None] = nothing
        self.over = False

    def whole(self, status: int, body: bytes, kind: str = "application/json") -> None:
        head = f"HTTP/1.1 {status} -\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        self._end(head.encode() + body)

    def begin(self, events: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        self._transport.write(head + _chunk(events))

    def send(self, events: bytes) -> None:
        self._transport.write(_chunk(events))

    def end(self, events: bytes) -> None:
        self._end(_chunk(events) + b"0\r\n\r\n")

    def _end(self, data: bytes) -> None:
        self.over, self.on_gone = True, nothing
        self._transport.write(data)
        if not self._keep:
            self._transport.close()


def _chunk(events: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(events), events)


class Stream:
    """Turns the count of tokens produced into events, or into one answer where no stream is wanted."""

    def __init__(self, ask: Ask, request_id: str, reply: Reply) -> None:
        self._ask = ask
        self._reply = reply
        kind = ("chat.completion" if ask.chat else "text_completion") + (".chunk" if ask.chat and ask.stream else "")
        self._head = {"id": request_id or "mock", "object": kind, "created": 0, "model": ask.model}
        self._text = {"delta": {"content": "x"}} if ask.chat else {"text": "x"}
        self._token = self._event(self._text, None)

    def produced(self, tokens: int) -> None:
        """The request has that many tokens now, one more than before."""
        last = tokens == self._ask.max_tokens
        if not self._ask.stream:
            if last:
                self._reply.whole(200, _json(self._complete(tokens)))
            return
        event = self._event(self._text, "length") if last else self._token
        events = self._frame(event, tokens)
        if tokens == 1:
            role = self._event({"delta": {"role": "assistant", "content": ""}}, None)
            self._reply.begin(self._frame(role, 0) + events if self._ask.chat else events)
            events = b""
        if last:
            self._reply.end(events + self._ending(tokens))
        elif events:
            self._reply.send(events)

    def _event(self, text: Json, finish: str | None) -> bytes:
        """Without its closing brace: usage may follow."""
        choice = {"index": 0, **text, "logprobs": None, "finish_reason": finish}
        return b"data: " + _json({**self._head, "choices": [choice]})[:-1]

    def _frame(self, event: bytes, tokens: int) -> bytes:
        n_in = self._ask.input_tokens
        usage = _USAGE % (n_in, n_in + tokens, tokens) if self._ask.continuous_usage else b""
        return event + usage + b"}\n\n"

    def _ending(self, tokens: int) -> bytes:
        usage = {**self._head, "choices": [], "usage": self._usage(tokens)}
        last = b"data: " + _json(usage) + b"\n\n" if self._ask.usage else b""
        return last + b"data: [DONE]\n\n"

    def _usage(self, tokens: int) -> Json:
        n_in = self._ask.input_tokens
        return {"prompt_tokens": n_in, "total_tokens": n_in + tokens, "completion_tokens": tokens}

    def _complete(self, tokens: int) -> Json:
        text = "x" * tokens
        said: Json = {"message": {"role": "assistant", "content": text}} if self._ask.chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": "length"}
        return {**self._head, "choices": [choice], "usage": self._usage(tokens)}


def _json(value: Json) -> bytes:
    return _ENCODER.encode(value).encode()


_USAGE = b',"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d}'
_ENCODER = json.JSONEncoder(separators=(",", ":"))
