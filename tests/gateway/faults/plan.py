"""One request drawn at random: what its client does, what its engine answers, and what that says of usage.

An engine's answer here knows, for each of its events, where in the bytes that go over the wire it is complete and what
an engine has said of usage by then. So what a gateway may have charged, whatever was cut off, is one of these `States`.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

import orjson

from ..raw_engine import ABORT, CLOSE, Answer, Asked, event, http

Json = dict[str, Any]
TEXTS = ("a", " tea", "\n\n", 'so "quoted"', "\\", "é", "茶", "🍵", '","finish_reason":null', "data: [DONE]")
FAULTS = ("dies", "dies", "dies", "error", "error", "full", "broken", "refused")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ERROR = {"error": {"message": "worker died", "type": "InternalServerError", "code": 500}}
STATUS = {"full": 503, "broken": 500, "refused": 400}
NO_SUCH_USAGE = http(400, b'{"error":{"message":"continuous_usage_stats: extra inputs are not permitted"}}')


class State(NamedTuple):
    """What was said of usage; `input` is None as long as it was not counted."""

    produced: int
    input: int | None
    cached: int


@dataclass
class Attempt:
    """One answer of an engine: `states` after none, one, two ... of its events, which are complete after so many
    `ends` bytes of it. `number`: the gateway's own count of its attempts. `good`: as far as the engine goes it is one.
    """

    answer: Answer
    number: int
    states: list[State]
    ends: list[int]
    good: bool

    def written(self) -> int:
        """Events, whole ones, that the engine has sent."""
        return bisect_right(self.ends, sum(map(len, self.answer.pieces[: self.answer.written])))


@dataclass
class Plan:
    """`leaves_after` so many bytes of an answer, or turns of the loop, its client goes, and then `abruptly` or not;
    `slow`: it reads nothing. `fault`: of its engine; of every one it is sent to, where it `repeats`."""

    name: str
    chance: Random = field(repr=False)
    key: str
    path: str
    stream: bool
    choices: int
    prompts: int
    max_tokens: int
    wants_usage: bool
    wants_continuous: bool
    reports: bool
    counts: list[list[int]]
    prompt_tokens: int
    cached: int
    fault: str = ""
    repeats: bool = False
    leaves_after: tuple[str, int] | None = None
    abruptly: bool = False
    slow: bool = False
    attempts: list[Attempt] = field(default_factory=list, repr=False)

    def request(self) -> bytes:
        asks: Json = {"prompt": ["x"] * self.prompts}
        if "chat" in self.path:
            asks = {"messages": [{"role": "user", "content": "hello"}]}
        body = {**asks, "model": "m", "max_tokens": self.max_tokens, "stream": self.stream, "n": self.choices}
        if self.stream and self.wants_usage:
            body["stream_options"] = {"include_usage": True, "continuous_usage_stats": self.wants_continuous}
        data = orjson.dumps(body)
        head = f"POST {self.path} HTTP/1.1\r\nHost: x\r\nx-api-key: {self.key}\r\nx-request-id: {self.name}\r\n"
        return head.encode() + b"Content-Length: %d\r\n\r\n" % len(data) + data

    def answer(self, asked: Asked, knows_continuous: bool) -> Answer:
        """What the engine does with it."""
        number = int(asked.request_id.rpartition("-")[2])
        body = asked.json()
        options = body.get("stream_options") or {}
        fault = self.fault if self.repeats or number == 1 else ""
        if fault in STATUS:
            attempt = Attempt(Answer([http(STATUS[fault], b"{}")]), number, [NOTHING], [], False)
        elif options.get("continuous_usage_stats") and not knows_continuous:
            attempt = Attempt(Answer([NO_SUCH_USAGE]), number, [NOTHING], [], False)
        elif self.stream:
            attempt = self._streamed(number, options, fault)
        else:
            attempt = self._whole(number, fault)
        if fault == "dies":
            self._cut_off(attempt)
        elif self.chance.random() < 0.2:
            attempt.answer.close_after = self.chance.uniform(0.0005, 0.005)
        self.attempts.append(attempt)
        return attempt.answer

    # -- its answers -------------------------------------------------------------------------------------------

    def _whole(self, number: int, fault: str) -> Attempt:
        total = sum(map(sum, self.counts))
        choice: Json = {"index": 0, "finish_reason": "stop", "text": "tea" * total}
        data = orjson.dumps(ERROR if fault == "error" else {"choices": [choice], "usage": self._usage(total)})
        raw = http(200, data)
        said = [] if fault == "error" else [State(total, self.prompt_tokens, self.cached)]
        return Attempt(Answer(_pieces(raw, self.chance)), number, [NOTHING, *said], [len(raw)] * len(said), not fault)

    def _streamed(self, number: int, options: Json, fault: str) -> Attempt:
        chunks = self._chunks(options)
        fails = self.chance.randrange(len(chunks) + 1) if fault == "error" else len(chunks)
        line = self.chance.choice((b"\n", b"\r\n"))
        texts = [event(chunk).replace(b"\n", line) for chunk, _ in chunks[:fails]]
        more = [event(ERROR).replace(b"\n", line)] if fault == "error" else []
        comment = b": still here" + line * 2
        texts = [text if self.chance.random() < 0.9 else comment + text for text in texts]
        body = b"".join([*texts, *more, b"data: [DONE]" + line * 2])
        raw, arrives = _in_chunks(body, self.chance)
        ends, position = [], 0
        for text in texts:
            position += len(text)
            ends.append(arrives(position - (line == b"\r\n")))  # a CR alone ends a line
        states = [NOTHING, *(state for _, state in chunks[:fails])]
        return Attempt(Answer(_pieces(raw, self.chance)), number, states, ends, not fault)

    def _chunks(self, options: Json) -> list[tuple[Json, State]]:
        """The events of its stream, and what each leaves known."""
        usage = self.reports and bool(options.get("include_usage"))
        continuous = usage and bool(options.get("continuous_usage_stats"))
        counted = continuous and self.prompts == 1
        known = (self.prompt_tokens, self.cached) if counted else (None, 0)
        left = [list(counts) for counts in self.counts]
        made = [0] * len(left)
        chunks: list[tuple[Json, State]] = []
        produced = 0

        def add(index: int, delta: Json, finish: str | None) -> None:
            choice: Json = {"index": index, "finish_reason": finish}
            choice |= {"delta": delta} if "chat" in self.path else {"text": delta["content"]}
            chunk: Json = {"id": "r-1", "object": "chunk", "model": "m", "choices": [choice]}
            if continuous:
                chunk["usage"] = self._usage(made[index])
            chunks.append((chunk, State(produced, *known)))

        for index in range(len(left) if "chat" in self.path else 0):
            add(index, {"role": "assistant", "content": ""}, None)
        while any(left):
            index = self.chance.choice([i for i, counts in enumerate(left) if counts])
            tokens = left[index].pop(0)
            made[index] += tokens
            produced += tokens if continuous else 1
            text = "y" * 131_072 if self.slow else self.chance.choice(TEXTS)
            add(index, {"content": text}, None if left[index] else "stop")
        if usage:
            last = {"id": "r-1", "object": "chunk", "model": "m", "choices": [], "usage": self._usage(sum(made))}
            chunks.append((last, State(sum(made), self.prompt_tokens, self.cached)))
        return chunks

    def _usage(self, produced: int) -> Json:
        usage: Json = {"prompt_tokens": self.prompt_tokens, "total_tokens": self.prompt_tokens + produced}
        usage["completion_tokens"] = produced
        if self.cached:
            usage["prompt_tokens_details"] = {"cached_tokens": self.cached}
        return usage

    def _cut_off(self, attempt: Attempt) -> None:
        whole = b"".join(attempt.answer.pieces)
        attempt.answer.pieces = _pieces(whole[: self.chance.randrange(len(whole) + 1)], self.chance)
        attempt.answer.then = self.chance.choice((CLOSE, ABORT))


NOTHING = State(0, None, 0)


def draw(number: int, chance: Random) -> Plan:
    """A request. With two of three nothing goes wrong."""
    chat = chance.random() < 0.6
    prompts = 1 if chat else chance.choice((1, 1, 1, 2))
    choices = chance.choice((1, 1, 1, 2, 3))
    prompt_tokens = chance.randrange(1, 200)
    plan = Plan(
        name=f"s{number}",
        chance=Random(chance.random()),
        key=chance.choice(("key-a", "key-b")),
        path="/v1/chat/completions" if chat else "/v1/completions",
        stream=chance.random() < 0.75,
        choices=choices,
        prompts=prompts,
        max_tokens=chance.randrange(1, 40),
        wants_usage=chance.random() < 0.4,
        wants_continuous=chance.random() < 0.5,
        reports=chance.random() < 0.85,
        counts=[[chance.randrange(1, 5) for _ in range(chance.randrange(1, 9))] for _ in range(choices * prompts)],
        prompt_tokens=prompt_tokens,
        cached=chance.choice((0, 0, chance.randrange(prompt_tokens + 1))),
    )
    what = chance.random()
    if what < 0.18:
        plan.fault = chance.choice(FAULTS)
        plan.repeats = plan.fault != "full" and chance.random() < 0.3  # who is always full is held off for seconds
    elif what < 0.33:
        plan.leaves_after = chance.choice((("bytes", chance.randrange(1, 1500)), ("turns", chance.randrange(12))))
        plan.abruptly = chance.random() < 0.5
    elif what < 0.333:
        plan.slow = plan.stream = True
        plan.counts = [[1] * 64]
        plan.choices = plan.prompts = 1
    return plan


def _in_chunks(body: bytes, chance: Random) -> tuple[bytes, Any]:
    """A response with that body in chunks, cut at random; and a function from bytes of the body to bytes of the
    response after which they have come."""
    raw = bytearray(HEAD)
    starts: list[int] = []  # in the body, of each chunk
    places: list[int] = []  # in the response
    position = 0
    for part in _pieces(body, chance):
        raw += b"%x\r\n" % len(part)
        starts.append(position)
        places.append(len(raw))
        raw += part + b"\r\n"
        position += len(part)

    def arrives(size: int) -> int:
        chunk = bisect_right(starts, size - 1) - 1
        return places[chunk] + size - starts[chunk]

    return bytes(raw) + b"0\r\n\r\n", arrives


def _pieces(whole: bytes, chance: Random) -> list[bytes]:
    """Cut at up to seven places."""
    cuts = sorted(chance.randrange(len(whole) + 1) for _ in range(chance.randrange(8)))
    return [piece for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True) if (piece := whole[a:b])]
