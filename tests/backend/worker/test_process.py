"""The worker as a process of its own: what it prints, and how it ends."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

PROGRAM = """
import sys
from backend.worker.config import WorkerSettings
from backend.worker.main import run
run(WorkerSettings(model=sys.argv[1], served_name="tiny", port=0, max_len=256, kv_tokens=1024, threads=1))
"""
BODY = {"model": "tiny", "prompt": "abc", "max_tokens": 250, "ignore_eos": True, "stream": True}


@asynccontextmanager
async def started(folder: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[str]]]:
    """A worker that has said it is ready, and the lines it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(folder), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        lines = []
        while not lines or "ready" not in lines[-1]:
            line = await process.stdout.readline()
            assert line, f"it ended after {lines}"
            lines.append(line.decode().rstrip())
        yield process, lines
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_it_says_where_it_listens_and_ends_its_streams_before_it_ends(model_folder: Path) -> None:
    async with started(model_folder) as (process, lines), aiohttp.ClientSession() as http:
        assert lines[0] == f"loading tiny from {model_folder} in float32"
        ready = re.fullmatch(
            r"worker ready on (http://127\.0\.0\.1:\d+) \(model tiny, KV tokens 1024, slots 16\)", lines[-1]
        )
        assert ready
        async with http.post(ready[1] + "/v1/completions", json=BODY) as response:
            first = await response.content.readuntil(b"\n\n")
            process.send_signal(signal.SIGTERM)
            rest = await response.read()
        assert (first + rest).count(b"data: ") == 251
        assert rest.endswith(b"data: [DONE]\n\n")
        assert await process.wait() == 0
