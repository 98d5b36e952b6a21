"""A gateway goes on serving whatever happens to its standard error."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import aiohttp
import pytest
import yaml

from ..conftest import chat
from ..engine import Engine

STARVED = "import sys; from gateway.main import run; sys.exit(run(sys.argv[1]))"
CLOSED = "import os, sys; os.close(2); os.execv(sys.executable, [sys.executable, '-c', sys.argv[2], sys.argv[1]])"


def full_pipe() -> tuple[int, int]:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"." * 1024)
    except BlockingIOError:
        os.set_blocking(writing, True)
    return reading, writing


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = await Engine().start()
    yield engine
    await engine.stop()


@pytest.fixture
def config(tmp_path: Path, engine: Engine) -> str:
    """The path of a file."""
    config = {
        "listen": {"port": 0},
        "pools": {"main": {"models": ["m"], "workers": [{"url": engine.url, "slots": 2, "kv_tokens": 1000}]}},
        "tenants": [{"id": "a", "keys_sha256": [sha256(b"key-a").hexdigest()]}],
        "health": {"interval_s": 0.05},
    }
    (file := tmp_path / "gateway.yaml").write_text(yaml.safe_dump(config))
    return str(file)


@asynccontextmanager
async def gateway(config: str, stderr: int, program: list[str]) -> AsyncIterator[str]:
    """Its address, for as long as it runs; it must end with 0 on SIGTERM."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program[0], config, *program[1:], stdout=asyncio.subprocess.PIPE, stderr=stderr
    )
    try:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        assert line.startswith("gateway ready on http://127.0.0.1:")
        yield line.split()[3].rstrip(",")
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def serves(url: str, requests: int = 20) -> str:
    """Asks for some completions, and for the metrics then."""
    async with aiohttp.ClientSession() as session:
        for _ in range(requests):
            async with session.post(
                url + "/v1/chat/completions", json=chat(), headers={"x-api-key": "key-a"}
            ) as response:
                assert response.status == 200
        async with session.get(url + "/metrics") as response:
            return await response.text()


async def test_when_nobody_reads_it(config: str) -> None:
    reading, writing = full_pipe()
    async with asyncio.timeout(60), gateway(config, writing, [STARVED]) as url:
        os.close(writing)
        assert 'fairgate_requests_total{outcome="ok",pool="main",tenant="a"} 20.0' in await serves(url)
    os.close(reading)


async def test_when_its_reader_has_gone(config: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    async with asyncio.timeout(60), gateway(config, writing, [STARVED]) as url:
        os.close(writing)
        page = ""
        while "fairgate_log_lines_dropped_total 0.0" in page or not page:
            page = await serves(url)


async def test_when_it_was_closed_at_the_start(config: str) -> None:
    """The number 2 is then free for a socket, which must not get the log: clients would see it."""
    async with (
        asyncio.timeout(60),
        gateway(config, asyncio.subprocess.DEVNULL, [CLOSED, STARVED]) as url,
    ):
        assert "fairgate_log_lines_dropped_total 0.0" in await serves(url)
