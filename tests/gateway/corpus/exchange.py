"""What was said to an engine and what it answered, byte for byte: the lines of the files beside this one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Exchange:
    """`request` and `answer`: the bodies. `variant`: how the answer was asked for: `whole`, or streamed: `stream`,
    with `usage`, with `continuous` usage. `cuts`: the lengths of the pieces in which it came, none where that was not
    seen."""

    name: str
    variant: str
    path: str
    request: bytes
    status: int
    content_type: str
    answer: bytes
    cuts: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name}-{self.variant}"

    @property
    def streamed(self) -> bool:
        return self.content_type.startswith("text/event-stream")

    @property
    def prompts(self) -> int:
        """How many the request carries."""
        prompt = json.loads(self.request).get("prompt")
        return len(prompt) if isinstance(prompt, list) and isinstance(prompt[0], str | list) else 1

    @property
    def pieces(self) -> list[bytes]:
        places = accumulate(self.cuts, initial=0)
        return [self.answer[a:b] for a, b in pairwise(places)] or [self.answer]


def load(file: str) -> list[Exchange]:
    with (FOLDER / file).open(encoding="utf-8") as lines:
        return [_exchange(json.loads(line)) for line in lines]


def _exchange(line: dict[str, Any]) -> Exchange:
    texts = {name: line[name].encode() for name in ("request", "answer")}
    return Exchange(**{**line, **texts, "cuts": tuple(line["cuts"])})


RECORDED = load("vllm-0.32.0.jsonl")
BY_HAND = load("by-hand.jsonl")
