"""Records what an engine answers, byte for byte: `python tests/gateway/corpus/record.py URL MODEL FILE`.

Each request of `CASES` is sent four times: whole, streamed, streamed with `include_usage`, and streamed with
`continuous_usage_stats` too. What the last three say must be the same but for usage, so that they can be compared byte
for byte; an engine under load joins tokens into fewer events, and then all of them are recorded again.
The file has a line of JSON for each answer (see exchange.py).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
from pathlib import Path
from typing import Any, TextIO

import aiohttp

Json = dict[str, Any]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
USAGE, CONTINUOUS = {"include_usage": True}, {"include_usage": True, "continuous_usage_stats": True}
VARIANTS: dict[str, Json] = {
    "whole": {},
    "stream": {"stream": True},
    "usage": {"stream": True, "stream_options": USAGE},
    "continuous": {"stream": True, "stream_options": CONTINUOUS},
}
TRIES = 8
BURST = 24
"""More than an engine with --max-num-queued-reqs of a few takes at once."""

TRICKY = (
    '"usage":{"completion_tokens":9},"finish_reason":null}]}\n\ndata: [DONE]\n\n{"error": "C:\\\\new\\"}\t\u2028</s>'
)
MANY_BYTES = "Grüße, 世界! 👩‍👩‍👧 naïve ﷺ 🎉"
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"type": "integer", "maximum": 9}},
            "required": ["city", "days"],
        },
    },
}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 10}, "age": {"type": "integer", "maximum": 150}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOL_CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln", "days": 2}}\n</tool_call>'


def ask(content: str = "What is the capital of France?", **more: Any) -> Json:
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 12, "temperature": 0, **more}


def complete(prompt: Any = "The quick brown fox", **more: Any) -> Json:
    return {"prompt": prompt, "max_tokens": 8, "temperature": 0, **more}


def one_of(*texts: str) -> Json:
    """Makes the model say one of these texts."""
    return {"max_tokens": 100, "structured_outputs": {"choice": list(texts)}}


CASES: dict[str, tuple[str, Json]] = {
    "chat": (CHAT, ask()),
    "chat-500-tokens": (CHAT, ask("Tell me a long story.", max_tokens=500, ignore_eos=True)),
    "chat-1-token": (CHAT, ask(max_tokens=1)),
    "chat-max-completion-tokens": (CHAT, ask(max_tokens=None, max_completion_tokens=5, user="u", top_k=5)),
    "chat-logprobs": (CHAT, ask(logprobs=True, top_logprobs=2, max_tokens=4)),
    "chat-n-2": (CHAT, ask(n=2, temperature=1, seed=11)),
    "chat-n-2-logprobs": (CHAT, ask(n=2, temperature=1, seed=5, logprobs=True, max_tokens=3)),
    "chat-stop": (CHAT, ask(stop=[" of", "\n"])),
    "chat-end": (CHAT, ask("Say yes.", **one_of("yes"))),
    "chat-many-bytes": (CHAT, ask("Greet!", **one_of(MANY_BYTES))),
    "chat-tricky-text": (CHAT, ask("Quote!", **one_of(TRICKY))),
    "chat-json-schema": (
        CHAT,
        ask(
            max_tokens=40, response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
        ),
    ),
    "chat-json-object": (CHAT, ask("A JSON object, please.", response_format={"type": "json_object"})),
    "chat-tool-named": (
        CHAT,
        ask(max_tokens=40, tools=[WEATHER], tool_choice={"type": "function", "function": {"name": "weather"}}),
    ),
    "chat-tool-required": (CHAT, ask(max_tokens=60, tools=[WEATHER], tool_choice="required")),
    "chat-tool-auto": (CHAT, ask("Köln?", tools=[WEATHER], **one_of(TOOL_CALL))),
    "chat-tool-unused": (CHAT, ask(tools=[WEATHER])),
    "chat-role": (CHAT, {"messages": [{"role": "nobody", "content": "é"}]}),
    "chat-token-ids": (CHAT, ask(return_token_ids=True, max_tokens=3)),
    "chat-cached-prompt": (CHAT, ask("Count the words. " * 60, max_tokens=4)),
    "completion": (COMPLETIONS, complete()),
    "completion-no-limit": (COMPLETIONS, complete(max_tokens=None)),
    "completion-token-ids": (COMPLETIONS, complete([504, 2365, 6354, 16438], return_token_ids=True)),
    "completion-2-prompts": (COMPLETIONS, complete(["One two three", "Ein Löwe"])),
    "completion-2-prompts-n-2": (COMPLETIONS, complete([[504, 2365], [1, 2]], n=2, temperature=1, seed=3)),
    "completion-echo": (COMPLETIONS, complete(echo=True, max_tokens=3, logprobs=1)),
    "completion-logprobs": (COMPLETIONS, complete(logprobs=2, max_tokens=3)),
    "completion-stop": (COMPLETIONS, complete("1, 2, 3,", stop=[" 7"], max_tokens=30)),
    "completion-many-bytes": (COMPLETIONS, complete("Greet: ", **one_of(MANY_BYTES))),
}
THOUGHT = [
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": 'Here is my thought process: "2 + 2"...\nHere is my response: It is 4.'},
]
REASONING = {"chat-reasoning": (CHAT, {**ask(max_tokens=40), "messages": [*THOUGHT, *THOUGHT, THOUGHT[0]]})}
"""For an engine with a reasoning parser that looks for these words (vLLM: --reasoning-parser granite)."""
REFUSED: dict[str, tuple[str, Json]] = {
    "refused-model": (CHAT, {**ask(), "model": "no-such-model"}),
    "refused-adapter": (COMPLETIONS, {**complete(), "model": "no-such-model"}),
    "refused-too-long": (COMPLETIONS, complete([7] * 3000)),
    "refused-too-many-tokens": (CHAT, ask(max_tokens=9000)),
    "refused-temperature": (CHAT, ask(temperature=-1)),
    "refused-messages": (CHAT, {"messages": 5}),
    "refused-no-messages": (CHAT, {"messages": []}),
    "refused-schema": (CHAT, ask(response_format={"type": "json_schema"})),
    "refused-tool": (CHAT, ask(tools=[WEATHER], tool_choice={"type": "function", "function": {"name": "other"}})),
    "refused-top-logprobs": (CHAT, ask(logprobs=True, top_logprobs=500)),
    "refused-prompt": (COMPLETIONS, complete("")),
    "refused-token-id": (COMPLETIONS, complete([99999999])),
    "refused-stop": (COMPLETIONS, complete(stop={"a": 1})),
}


class Recorder:
    """Sends requests one after the other, and keeps what came back as lines for the file."""

    def __init__(self, session: aiohttp.ClientSession, model: str) -> None:
        self._session = session
        self._model = model

    async def case(self, name: str, path: str, body: Json) -> list[Json]:
        await self.one(name, "whole", path, body)  # fills the engine's cache, so that all four find the same there
        for _ in range(TRIES):
            lines = [await self.one(name, variant, path, body) for variant in VARIANTS]
            if lines[0]["status"] != 200 or _said(lines[1]) == _said(lines[2]) == _said(lines[3]):
                return lines
        raise SystemExit(f"{name}: the engine never streamed the same events three times; is it busy?")

    async def one(self, name: str, variant: str, path: str, body: Json) -> Json:
        """One answer. `cuts`: how long the chunks were in which its body came."""
        request = json.dumps({"model": self._model, **body, **VARIANTS[variant]}, ensure_ascii=False)
        headers = {"Content-Type": "application/json", "X-Request-Id": name}
        async with self._session.post(path, data=request.encode(), headers=headers) as response:
            parts, part = [], b""
            async for data, ends in response.content.iter_chunks():
                part += data
                if ends or response.headers.get("Content-Length"):
                    parts.append(part)
                    part = b""
            return {
                "name": name,
                "variant": variant,
                "path": path,
                "request": request,
                "status": response.status,
                "content_type": response.headers["Content-Type"],
                "answer": b"".join(parts).decode(),
                "cuts": [len(part) for part in parts if part] if len(parts) > 1 else [],
            }

    async def burst(self) -> list[Json]:
        """What an engine says that has no room: one answer for each status, whole and streamed."""
        path, body = CASES["chat"]
        found: dict[tuple[str, int], Json] = {}
        for variant in ("whole", "continuous"):
            for line in await asyncio.gather(*(self.one("full", variant, path, body) for _ in range(BURST))):
                if line["status"] != 200 or '"error"' in line["answer"]:
                    found.setdefault((variant, line["status"]), line)
        return list(found.values())

    async def killed(self, process: int) -> list[Json]:
        """What it says when its worker `process` is killed while it answers."""
        path, body = CASES["chat-500-tokens"]
        stream = asyncio.create_task(self.one("killed", "continuous", path, body))
        await asyncio.sleep(1)
        os.kill(process, signal.SIGKILL)
        return [await stream]


def _said(line: Json) -> list[Any]:
    """What each choice says, event by event; in which order choices take turns is left to chance."""
    answer = re.sub('"chatcmpl-tool-[0-9a-f]+"', '"by chance"', line["answer"])
    events = [event.removeprefix("data: ") for event in answer.split("\n\n") if event]
    choices = [choices[0] for event in events if event != "[DONE]" and (choices := json.loads(event).get("choices"))]
    return sorted(choices, key=lambda choice: int(choice["index"]))


async def record(url: str, model: str, file: Path, cases: dict[str, tuple[str, Json]], process: int | None) -> None:
    async with aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(600)) as session:
        recorder = Recorder(session, model)
        with file.open("w", encoding="utf-8") as out:
            for name, (path, body) in cases.items():
                _write(out, await recorder.case(name, path, body))
            if process is not None:
                _write(out, await recorder.burst())
                _write(out, await recorder.killed(process))


def _write(out: TextIO, lines: list[Json]) -> None:
    for line in lines:
        print(json.dumps(line, ensure_ascii=False), file=out, flush=True)
        print(line["status"], line["name"], line["variant"], len(line["answer"]), "characters", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="where the engine listens, such as http://127.0.0.1:8000")
    parser.add_argument("model", help="the name it serves its model by")
    parser.add_argument("file", type=Path, help="where to write")
    parser.add_argument("--reasoning", action="store_true", help="the engine parses reasoning: record that alone")
    parser.add_argument("--kill", type=int, metavar="PID", help="overload the engine, then kill this process of it")
    asked = parser.parse_args()
    wanted = REASONING if asked.reasoning else CASES | REFUSED
    asyncio.run(record(asked.url, asked.model, asked.file, wanted, asked.kill))
