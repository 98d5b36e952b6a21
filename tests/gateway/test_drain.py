"""Shutting down: nothing new, what is there within the window, then an error each client can read."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from hashlib import sha256
from pathlib import Path

import aiohttp
import yaml

from .conftest import MakeHouse, chat, until
from .engine import Engine
from .test_serve import events


async def test_what_is_queued_and_running_is_served(make_house: MakeHouse) -> None:
    house = await make_house(Engine(hold_before=2), worker={"slots": 1})
    calls = [asyncio.ensure_future(house.post(chat(stream=True)).__aenter__()) for _ in range(2)]
    await house.engine.until(lambda: house.engine.active == 1)
    await until(lambda: house.waiting() == 1)
    draining = asyncio.create_task(house.gateway.drain())
    await until(lambda: not house.gateway.ready())
    async with house.session.get(house.url + "/readyz") as response:
        assert response.status == 503
    async with house.post(chat()) as response:
        assert response.status == 503
    house.engine.go.set()
    for response in await asyncio.gather(*calls):
        assert events(await response.text())[-1] == "[DONE]"
    assert await draining


async def test_what_does_not_end_within_the_window_hears_of_it(make_house: MakeHouse) -> None:
    house = await make_house(Engine(hold_before=2), worker={"slots": 1}, timeouts={"drain_s": 0.05})
    running = asyncio.ensure_future(house.post(chat(stream=True)).__aenter__())
    await house.engine.until(lambda: house.engine.active == 1)
    queued = asyncio.ensure_future(house.post(chat()).__aenter__())
    await until(lambda: house.waiting() == 1)
    assert not await house.gateway.drain()
    await house.gateway.close()
    assert events(await (await running).text())[-1]["error"]["code"] == "draining"
    refused = await queued
    assert (refused.status, (await refused.json())["error"]["code"]) == (503, "draining")


async def test_the_process_drains_on_sigterm_and_exits_0(tmp_path: Path) -> None:
    engine = await Engine(hold_before=3).start()
    config = {
        "listen": {"port": 0},
        "pools": {"main": {"models": ["m"], "workers": [{"url": engine.url, "slots": 2, "kv_tokens": 1000}]}},
        "tenants": [{"id": "a", "keys_sha256": [sha256(b"key-a").hexdigest()]}],
        "health": {"interval_s": 0.05},
    }
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(config))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", f"import sys; from gateway.main import run; sys.exit(run({str(file)!r}))",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=os.environ,
    )  # fmt: skip
    try:
        async with asyncio.timeout(30), aiohttp.ClientSession() as session:
            assert process.stdout is not None
            assert process.stderr is not None
            line = (await process.stdout.readline()).decode()
            assert line.startswith("gateway ready on http://127.0.0.1:")
            url = line.split()[3].rstrip(",")
            headers = {"x-api-key": "key-a"}
            async with session.post(url + "/v1/chat/completions", json=chat(stream=True), headers=headers) as response:
                process.send_signal(signal.SIGTERM)
                assert b"drains" in await process.stdout.readline()
                engine.go.set()
                assert events(await response.text())[-1] == "[DONE]"
            assert await process.wait() == 0
            log = (await process.stderr.read()).decode()
    finally:
        if process.returncode is None:
            process.kill()
        await engine.stop()
    (record,) = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert (record["tenant"], record["outcome"], record["output_tokens"]) == ("a", "ok", 3)
    assert "key-a" not in log
    assert "hello" not in log
