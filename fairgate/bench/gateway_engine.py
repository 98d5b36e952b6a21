"""The engine of `fairgate bench gateway` in Python, for machines without a C compiler, and the bytes that both send.

Its answers have the shape of vLLM's: a `chat.completion` whole, or a chunk of HTTP for each event, the role's first.
gateway_engine.c says what a request may ask for; it is the same program, and sends what `write_answers` wrote.

    python -m fairgate.bench.gateway_engine ANSWERS
"""

from __future__ import annotations

import asyncio
import json
import re
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import uvloop

MOST_TOKENS = 512
PROMPT_TOKENS = 24
WORD = " word"
NONE, AT_END, IN_EACH = 0, 1, 2  # where a stream reports usage
_KINDS = 10  # of pieces by tokens: whole answers; and for each usage events, last events, ends
_NOTHING, _HEAD, _FIRST = 0, 1, 2
_STREAM = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
_FACTS = {"created": 1762000000, "model": "m"}


# -- the bytes -----------------------------------------------------------------------------------------------------


def write_pieces(path: Path, pieces: Sequence[bytes]) -> Path:
    """In the form that the programs in C read: 32 bits of length, then the bytes, again and again."""
    path.write_bytes(b"".join(struct.pack("=I", len(piece)) + piece for piece in pieces))
    return path


def read_pieces(path: Path) -> list[bytes]:
    data, pieces, at = path.read_bytes(), [], 0
    while at < len(data):
        (length,) = struct.unpack_from("=I", data, at)
        pieces.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return pieces


def write_answers(path: Path, most: int = MOST_TOKENS) -> Path:
    """All that an engine may send, up to so many tokens an answer."""
    return write_pieces(path, [struct.pack("=I", most), *_pieces(most)])


def events_of(tokens: int) -> int:
    """How many events such a stream has for a client that asks for no usage: the role, the tokens, [DONE]."""
    return tokens + 2


def _pieces(most: int) -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    yield _STREAM.encode()
    tokens = range(most + 1)
    yield from map(_whole, tokens)
    for usage in (NONE, AT_END, IN_EACH):
        yield from (_event(number, usage, None) for number in tokens)
        yield from (_event(number, usage, "length") for number in tokens)
        yield from (_ending(number, usage) for number in tokens)


def _whole(tokens: int) -> bytes:
    message: dict[str, object] = {"role": "assistant", "content": WORD * tokens, "refusal": None, "annotations": None}
    message |= {"audio": None, "function_call": None, "tool_calls": [], "reasoning": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}
    choice |= {"stop_reason": None, "token_ids": None}
    facts = {"id": "chatcmpl-0123456789abcdef", "object": "chat.completion", **_FACTS}
    usage = {**_usage(tokens), "prompt_tokens_details": None}
    rest = {"service_tier": None, "system_fingerprint": None, "usage": usage}
    more = {"prompt_logprobs": None, "prompt_token_ids": None, "kv_transfer_params": None}
    body = _json({**facts, "choices": [choice], **rest, **more})
    head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\ncontent-type: application/json\r\n\r\n"
    return head.encode() + body


def _event(number: int, usage: int, finish_reason: str | None) -> bytes:
    delta = {"content": WORD} if number else {"role": "assistant", "content": ""}
    choice: dict[str, object] = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    choice |= {"stop_reason": None} if finish_reason else {}
    choice |= {"token_ids": None} if number else {}
    told = ({}, {"usage": None}, {"usage": _usage(number)})[usage]
    return _framed(_data({"choices": [choice], **told}))


def _ending(tokens: int, usage: int) -> bytes:
    told = _framed(_data({"choices": [], "usage": _usage(tokens)})) if usage else b""
    return told + _framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": PROMPT_TOKENS, "total_tokens": PROMPT_TOKENS + tokens, "completion_tokens": tokens}


def _data(chunk: Mapping[str, Any]) -> bytes:
    facts = {"id": "chatcmpl-0123456789abcdef", "object": "chat.completion.chunk", **_FACTS}
    return b"data: " + _json({**facts, **chunk}) + b"\n\n"


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


# -- the program ---------------------------------------------------------------------------------------------------


class Answers:
    """What `write_answers` wrote."""

    def __init__(self, path: Path) -> None:
        size, *self._pieces = read_pieces(path)
        self.most = int.from_bytes(size, sys.byteorder)
        self.nothing = self._pieces[_NOTHING]

    def whole(self, tokens: int) -> bytes:
        return self._of(0, tokens)

    def stream(self, tokens: int, usage: int) -> list[bytes]:
        """Head, role and first token; the other tokens, each by itself; the end is with the last of them."""
        kind = 1 + 3 * usage
        events = [self._of(kind, number) for number in range(tokens)]
        events.append(self._of(kind + 1, tokens) + self._of(kind + 2, tokens))
        return [self._pieces[_HEAD] + events[0] + events[1], *events[2:]]

    def _of(self, kind: int, tokens: int) -> bytes:
        return self._pieces[_FIRST + kind * (self.most + 1) + tokens]


class EngineConnection(asyncio.Protocol):
    """Answers one request at a time. `over` is given the reason when it is asked for what it does not have."""

    def __init__(self, answers: Answers, over: asyncio.Future[str]) -> None:
        self._answers = answers
        self._over = over
        self._got = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, found, body = self._got.partition(b"\r\n\r\n")
        length = re.search(rb"\ncontent-length:\s*(\d+)", head, re.IGNORECASE)
        if found and len(body) >= (int(length[1]) if length else 0):
            self._got = b""
            self._answer(json.loads(body) if body else None)

    def _answer(self, asked: dict[str, Any] | None) -> None:
        if asked is None:
            self._transport.write(self._answers.nothing)
        elif not 1 <= (tokens := asked.get("max_tokens", 0)) <= self._answers.most:
            if not self._over.done():
                self._over.set_result(f"max_tokens {tokens}; expected 1 to {self._answers.most}")
        elif not asked.get("stream"):
            self._transport.write(self._answers.whole(tokens))
        else:
            options = asked.get("stream_options") or {}
            usage = IN_EACH if options.get("continuous_usage_stats") else int(options.get("include_usage", False))
            self._stream(self._answers.stream(tokens, usage), asked.get("seed", 0) / 1e3)

    def _stream(self, pieces: list[bytes], gap: float) -> None:
        if not gap:
            self._transport.write(b"".join(pieces))
            return
        now = asyncio.get_running_loop().time()
        self._transport.write(pieces[0])
        self._pace(iter(pieces[1:]), (now // gap + 1) * gap, gap)

    def _pace(self, pieces: Iterator[bytes], due: float, gap: float) -> None:
        """Streams of one pace move together, as by an engine's steps."""
        self._timer = asyncio.get_running_loop().call_at(due, self._step, pieces, due, gap)

    def _step(self, pieces: Iterator[bytes], due: float, gap: float) -> None:
        if (piece := next(pieces, None)) is not None:
            self._transport.write(piece)
            self._pace(pieces, due + gap, gap)


async def _serve(answers: Answers) -> str:
    """Returns why it cannot go on."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[str] = loop.create_future()
    server = await loop.create_server(lambda: EngineConnection(answers, over), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    return await over


if __name__ == "__main__":
    sys.exit(uvloop.run(_serve(Answers(Path(sys.argv[1])))))
