"""The OpenAI protocol as the mock engine speaks it, as far as a gateway uses it: bodies in, events or one answer out.

Of its own, not the client's (`loadgen.client.wire`): the two ends of what is tested meet on the wire only.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from loadgen.mock.http import BadRequest, Reply

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
Json = dict[str, Any]
DEFAULT_MAX_TOKENS = 16


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
