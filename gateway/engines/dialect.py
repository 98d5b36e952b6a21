"""What differs between kinds of engines that all speak the OpenAI API, as data.

What an engine is shows in its metrics. Until it has shown, it is taken for a plain one (see plain.py).
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from gateway.errors import EngineRefused, UpstreamError


class Size(NamedTuple):
    """Running slots and KV tokens; None for what an engine does not tell."""

    slots: int | None = None
    kv_tokens: int | None = None


@dataclass(frozen=True)
class Dialect:
    """`prefix` begins the names of its metrics, `waiting` is the one of requests that wait inside it. `full`: statuses
    by which it says that it has no room. `continuous_usage`: it can report usage while it streams, as far as is known.
    `health_path` answers 200 while it is well. `repeatable`: it works for the one who is connected and keeps nothing of
    a request, so that one may be sent again where a connection was lost before it said anything. A kind of engine that
    tells its size overrides `size`."""

    name: str
    prefix: str = ""
    waiting: str = ""
    full: frozenset[int] = frozenset((429, 503))
    continuous_usage: bool = True
    health_path: str = "/health"
    repeatable: bool = True

    def speaks(self, metrics: str) -> bool:
        """Are these the metrics of such an engine?"""
        return bool(self.prefix) and f"\n{self.prefix}" in f"\n{metrics}"

    def size(self, metrics: str) -> Size:
        """What its metrics say of its size."""
        return Size()

    def count_waiting(self, metrics: str) -> int:
        """Requests that wait inside the engine, over all models; 0 where it does not tell."""
        if not self.waiting:
            return 0
        total = 0.0
        for value in re.findall(rf"^{re.escape(self.waiting)}(?:\{{[^}}]*\}})? (\S+)", metrics, re.MULTILINE):
            with suppress(ValueError):
                total += float(value)
        return int(total)

    def not_taken(self, status: int, body: bytes) -> UpstreamError | EngineRefused:
        """An answer other than 200: full, the client's own mistake (4xx), or broken (the rest; 401 and 403 too, since
        the credentials are the gateway's)."""
        if status in self.full:
            return UpstreamError("overflow", f"the engine is full ({status})")
        if 400 <= status < 500 and status not in (401, 403):
            return EngineRefused(status, body)
        return UpstreamError("status", f"the engine answered with status {status}")
