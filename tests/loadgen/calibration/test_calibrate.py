"""Calibration against a real server on a free port."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer

from fairness import parse_cost
from loadgen.calibration.calibrate import calibrate, to_yaml
from loadgen.client.target import TargetError

Start = Callable[..., Awaitable[str]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    servers: list[TestServer] = []

    async def run(models: list[str], status: int = 200) -> str:
        app = web.Application()
        asked: list[int] = []

        async def list_models(request: web.Request) -> web.Response:
            return web.json_response({"data": [{"id": model} for model in models]})

        async def chat(request: web.Request) -> web.StreamResponse:
            body = await request.json()
            asked.append(body["max_tokens"])
            if status != 200:
                return web.json_response({"error": {"code": "overloaded"}}, status=status)
            response = web.StreamResponse()
            await response.prepare(request)
            words = len(body["messages"][0]["content"].split())
            for produced in range(1, body["max_tokens"] + 1):
                usage = {"prompt_tokens": words, "completion_tokens": produced}
                event = {"choices": [{"delta": {"content": "w"}}], "usage": usage}
                await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            await response.write(b"data: [DONE]\n\n")
            return response

        app.router.add_get("/v1/models", list_models)
        app.router.add_post("/v1/chat/completions", chat)
        server = TestServer(app, host="127.0.0.1")
        servers.append(server)
        await server.start_server()
        return str(server.make_url("/"))

    yield run
    for server in servers:
        await server.close()


async def test_a_live_engine_is_measured_over_the_grid_and_the_gateway_reads_the_result(start: Start) -> None:
    told: list[float] = []
    url = await start(["tiny", "other"])
    result = await calibrate(url, inputs=(8, 64), outputs=12, repeats=2, progress=lambda what, part: told.append(part))
    assert result.model == "tiny"
    assert {sample.output_tokens for sample in result.samples} == {1, 2, 4, 8, 12}
    assert len(result.samples) == 2 * 5, "the fastest of the repeats"
    assert all(sample.seconds > 0 for sample in result.samples)
    for kind, fit in result.fits.items():
        assert parse_cost(yaml.safe_load(to_yaml(result, kind))["cost"]) == fit.cost
    assert told[0] == 0.0
    assert set(told) >= {i / 5 for i in range(5)}


async def test_an_engine_without_models_is_named(start: Start) -> None:
    with pytest.raises(TargetError, match="/v1/models names no models; expected at least one"):
        await calibrate(await start([]))


async def test_an_engine_that_does_not_answer_is_named(unused_tcp_port: int) -> None:
    with pytest.raises(TargetError, match=rf"127\.0\.0\.1:{unused_tcp_port}/v1/models names no models"):
        await calibrate(f"http://127.0.0.1:{unused_tcp_port}")


async def test_a_request_that_does_not_finish_ends_the_calibration(start: Start) -> None:
    url = await start(["tiny"], status=503)
    with pytest.raises(TargetError, match="ended as rejected overloaded; expected it to finish"):
        await calibrate(url, inputs=(8,), outputs=4)
