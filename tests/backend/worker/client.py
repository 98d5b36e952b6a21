"""A real worker on a free port, a client of it, and a gate to stop its engine at a chosen step."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from backend.worker.config import WorkerSettings
from backend.worker.engine import Output
from backend.worker.main import Worker, listening

PROMPT = {"model": "tiny", "prompt": "abc", "temperature": 0, "max_tokens": 5, "ignore_eos": True}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "temperature": 0, "max_tokens": 5}
LONG = PROMPT | {"max_tokens": 200, "stream": True}
JSON = dict[str, Any]


@dataclass
class Client:
    """A client of one worker, and the worker itself to look inside."""

    worker: Worker
    url: str
    http: aiohttp.ClientSession

    async def post(self, path: str, body: object, **options: Any) -> tuple[int, JSON]:
        data = body if isinstance(body, bytes) else json.dumps(body)
        async with self.http.post(self.url + path, data=data, **options) as response:
            return response.status, await _body(response)

    async def get(self, path: str) -> tuple[int, JSON]:
        async with self.http.get(self.url + path) as response:
            return response.status, await _body(response)

    async def events(self, path: str, body: JSON) -> list[JSON | str]:
        async with self.http.post(self.url + path, json=body | {"stream": True}) as response:
            assert response.content_type == "text/event-stream"
            return [_event(block) for block in (await response.text()).split("\n\n") if block]

    async def metric(self, name: str) -> float:
        async with self.http.get(self.url + "/metrics") as response:
            families = text_string_to_metric_families(await response.text())
            return sum(sample.value for family in families for sample in family.samples if sample.name == name)

    async def until(self, name: str, value: float) -> None:
        """Wait for a metric to have a value; the test's timeout is the limit."""
        while await self.metric(name) != value:
            pass


class Gate:
    """Lets the engine make so many steps and then stand still, so that no test depends on who is faster."""

    def __init__(self, worker: Worker, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
        self._allowed = threading.Semaphore(steps)
        self._step = worker.engine._engine.step
        monkeypatch.setattr(worker.engine._engine, "step", self.step)

    def step(self) -> list[Output]:
        return self._step() if self._allowed.acquire(timeout=0.001) else []

    def allow(self, steps: int) -> None:
        self._allowed.release(steps)


async def _body(response: aiohttp.ClientResponse) -> JSON:
    if response.content_type == "application/json":
        return dict(await response.json())
    return {"text": await response.text()}


def _event(block: str) -> JSON | str:
    data = block.removeprefix("data: ")
    return data if data == "[DONE]" else json.loads(data)


def config(model_folder: Path, **changes: Any) -> WorkerSettings:
    options = {"served_name": "tiny", "port": 0, "kv_tokens": 1024, "max_running": 4, "max_len": 256, **changes}
    return WorkerSettings(model=str(model_folder), dtype="float32", deterministic=True, threads=1, **options)


async def serve(worker: Worker) -> AsyncIterator[Client]:
    async with listening(worker) as url, aiohttp.ClientSession() as http:
        yield Client(worker, url, http)
