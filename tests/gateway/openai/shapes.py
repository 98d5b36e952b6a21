"""Streams as vLLM, SGLang and OpenAI write them: members, their order and their form as in what they send.

vLLM: as recorded (see tests/gateway/corpus). SGLang (python/sglang/srt/entrypoints/openai: protocol.py, sse_utils.py):
text comes from a writer that leaves out usage where there is none, tool calls from another that writes null.
OpenAI: as in its API reference; usage is null in all events but the last.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

Json = dict[str, Any]
TRAPS = [
    '"usage":{"completion_tokens":9}',
    ',"usage":null}',
    '"},"finish_reason":null}],"usage":{"prompt_tokens":1,"total_tokens":9,"completion_tokens":8}}',
    '"finish_reason":null',
    "data: [DONE]",
    "\n\ndata: [DONE]\n\n",
    '{"error":{"code":503}}',
    "\\",
    '\\"',
    '"',
    "\r\n",
    "\r",
    "\u2028",
    "👩‍👩‍👧",
    "\x00\x1f\x7f",
]
WELL = st.characters(exclude_categories=["Cs"])
TEXT = st.one_of(
    st.text(WELL, max_size=5),
    st.sampled_from(TRAPS),
    st.lists(st.sampled_from(TRAPS), min_size=2, max_size=3).map("".join),
)
SAID = st.one_of(
    TEXT.map(lambda text: {"content": text}),
    TEXT.map(lambda text: {"content": text}),
    TEXT.map(lambda text: {"reasoning": text}),
    TEXT.map(lambda text: {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}),
    st.just({}),
)
FINISH = st.sampled_from(["stop", "length", "tool_calls"])
Build = Callable[[int, Json, Json | None, str | None, Json | None], Json]
"""index, delta, logprobs, finish_reason, usage (None: not reported) -> chunk."""


def vllm(index: int, delta: Json, logprobs: Json | None, finish: str | None, usage: Json | None) -> Json:
    choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
    choice |= {"stop_reason": None} if finish else {}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    chunk |= {"choices": [{**choice, "token_ids": None}]}
    chunk |= {"usage": {**usage, "completion_tokens_details": None}} if usage else {}
    return chunk | ({"prompt_token_ids": None, "prompt_text": None} if "role" in delta else {})


def vllm_completion(index: int, delta: Json, logprobs: Json | None, finish: str | None, usage: Json | None) -> Json:
    text = {"index": index, "text": delta.get("content", ""), "logprobs": logprobs, "finish_reason": finish}
    choice = {**text, "stop_reason": None, "prompt_token_ids": None, "token_ids": None}
    chunk = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
    return chunk | ({"usage": usage} if usage else {})


def sglang(index: int, delta: Json, logprobs: Json | None, finish: str | None, usage: Json | None) -> Json:
    tools = "tool_calls" in delta
    said = {"role": delta.get("role"), "content": delta.get("content"), "reasoning_content": delta.get("reasoning")}
    if tools:
        said["tool_calls"] = delta["tool_calls"]
    else:
        said = {"reasoning_content": said.pop("reasoning_content"), **{k: v for k, v in said.items() if v is not None}}
    choice = {"index": index, "delta": said, "logprobs": logprobs, "finish_reason": finish, "matched_stop": None}
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    if usage:
        usage = {**usage, "prompt_tokens_details": None, "reasoning_tokens": 0}
    return chunk | ({"usage": usage} if usage or tools else {})


def openai(index: int, delta: Json, logprobs: Json | None, finish: str | None, usage: Json | None) -> Json:
    choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    tail = {"service_tier": "default", "system_fingerprint": None, "choices": [choice]}
    order = ("prompt_tokens", "completion_tokens", "total_tokens")
    return {**head, **tail, "usage": usage and {name: usage[name] for name in order}, "obfuscation": "xY"}


BUILDS: list[Build] = [vllm, vllm_completion, sglang, openai]


def compact(chunk: Json) -> str:
    return json.dumps(chunk, ensure_ascii=False, separators=(",", ":"))


WRITERS: list[Callable[[Json], str]] = [
    compact,
    compact,
    lambda chunk: json.dumps(chunk, separators=(",", ":")),
    lambda chunk: json.dumps(chunk, ensure_ascii=False),
    lambda chunk: json.dumps(chunk, indent=1),
]


def counts(prompt: int, produced: int) -> Json:
    return {"prompt_tokens": prompt, "total_tokens": prompt + produced, "completion_tokens": produced}


LOGPROBS = {"content": [{"token": '"usage":', "logprob": -0.5, "bytes": [34], "top_logprobs": []}]}


@st.composite
def chunks(draw: st.DrawFn, choices: int) -> list[Json]:
    """The chunks of one answer, in the shape of one engine: choices take turns, usage while it streams or in the end,
    or not at all."""
    build = draw(st.sampled_from(BUILDS))
    prompt, each = draw(st.integers(1, 30)), [0] * choices
    continuous, final, logprobs = draw(st.booleans()), draw(st.booleans()), draw(st.sampled_from([None, LOGPROBS]))
    usage = [counts(prompt, 0) if continuous else None for _ in each]
    made = [build(i, {"role": "assistant", "content": ""}, None, None, usage[i]) for i in range(choices)]
    for turn in draw(st.lists(st.integers(0, choices - 1), max_size=6)):
        each[turn] += draw(st.integers(0, 12))
        made.append(build(turn, draw(SAID), logprobs, None, counts(prompt, each[turn]) if continuous else None))
    made += [
        build(i, draw(SAID), None, draw(FINISH), counts(prompt, each[i]) if continuous else None)
        for i in range(choices)
    ]
    if final:
        details = {"prompt_tokens_details": draw(st.sampled_from([None, {"cached_tokens": 3}]))}
        last = {**made[0], "choices": [], "usage": {**counts(prompt * choices, sum(each)), **details}}
        made.append(last)
    return made


@st.composite
def framed(draw: st.DrawFn, texts: list[str]) -> bytes:
    """Events on the wire: any ending of lines, comments and other fields between, a byte order mark, data over several
    lines where the JSON has some."""
    end = draw(st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"]))
    space = draw(st.sampled_from([b" ", b" ", b""]))
    noise = draw(st.sampled_from([b"", b"", b": ping" + end, b"event: x" + end + b"id: 1" + end, end]))
    out = draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf"]))
    for text in texts:
        lines = text.encode("utf-8", "surrogatepass").split(b"\n")
        out += noise + b"".join(b"data:" + space + line + end for line in lines) + end
    return out
