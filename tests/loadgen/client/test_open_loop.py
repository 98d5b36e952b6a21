"""The live client against a real server on a free port: exact lengths, an open loop, and every way a request ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from loadgen.client.open_loop import run_load
from loadgen.client.record import Ending, LoadRecord
from loadgen.client.target import Target, TargetError
from loadgen.workloads.prompts import Prompts
from loadgen.workloads.workload import Request


def due(t_s: float = 0.0, tenant: str = "a", output_tokens: int = 5) -> Request:
    return Request(t_s, tenant, 32, output_tokens)


@dataclass
class Engine:
    """Answers /v1/models, and chats by `behave`; keeps what it was asked."""

    behave: Behaviour
    asked: list[dict[str, object]] = field(default_factory=list)
    open_streams: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    server: TestServer | None = None
    dies_after_check: bool = False

    async def models(self, request: web.Request) -> web.Response:
        if request.headers["Authorization"] == "Bearer wrong":
            return web.json_response({"error": {"code": "invalid_api_key"}}, status=401)
        response = web.json_response({"data": []})
        if self.dies_after_check:
            response.force_close()
            assert self.server is not None
            assert self.server.runner is not None
            for site in list(self.server.runner.sites):
                await site.stop()
        return response

    async def chat(self, request: web.Request) -> web.StreamResponse:
        headers = {"key": request.headers["Authorization"], "id": request.headers["x-request-id"]}
        self.asked.append(await request.json() | headers)
        await self._count(1)
        try:
            return await self.behave(self, request)
        finally:
            await asyncio.shield(self._count(-1))

    async def _count(self, streams: int) -> None:
        self.open_streams += streams
        async with self.changed:
            self.changed.notify_all()

    async def until_open(self, streams: int) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: self.open_streams == streams)


Behaviour = Callable[[Engine, web.Request], Awaitable[web.StreamResponse]]


def event(produced: int, prompt: int = 40, text: str = "w ", usage: bool = True) -> bytes:
    body: dict[str, object] = {"choices": [{"delta": {"content": text}}]}
    if usage:
        body["usage"] = {"prompt_tokens": prompt, "completion_tokens": produced}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


async def stream_to(request: web.Request, queue_ms: str = "25") -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream", "x-fairgate-queue-ms": queue_ms})
    await response.prepare(request)
    return response


async def answer(engine: Engine, request: web.Request) -> web.StreamResponse:
    """As many tokens as `max_tokens` says, in events whose bytes are cut in the middle."""
    wanted = (await request.json())["max_tokens"]
    response = await stream_to(request)
    for k in range(1, wanted + 1):
        data = event(k)
        await response.write(data[:17])
        await response.write(data[17:])
    await response.write(b": a comment\n\ndata: [DONE]\n\n")
    return response


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[tuple[Engine, TestServer]]]]:
    servers: list[TestServer] = []

    async def start(behave: Behaviour) -> tuple[Engine, TestServer]:
        engine = Engine(behave)
        app = web.Application()
        app.router.add_post("/v1/chat/completions", engine.chat)
        app.router.add_get("/v1/models", engine.models)
        engine.server = TestServer(app, host="127.0.0.1")
        servers.append(engine.server)
        await engine.server.start_server()
        return engine, engine.server

    yield start
    for server in servers:
        await server.close()


def target(server: TestServer, **settings: float) -> Target:
    return Target(str(server.make_url("/")), {"a": "key-a", "b": "key-b"}, "tiny", **settings)  # type: ignore[arg-type]


def only(record: LoadRecord, ending: Ending, code: str = "") -> None:
    assert [(e.ending, e.code) for e in record.exchanges] == [(ending, code)] * len(record.exchanges)


async def test_lengths_are_exact_and_each_tenant_uses_its_own_key(serve) -> None:
    engine, server = await serve(answer)
    record = await run_load(target(server), [due(tenant="a", output_tokens=7), due(tenant="b", output_tokens=1)])
    only(record, Ending.FINISHED)
    assert [(e.input_tokens, e.output_tokens) for e in record.exchanges] == [(40, 7), (40, 1)]
    assert {body["key"] for body in engine.asked} == {"Bearer key-a", "Bearer key-b"}
    for body, wanted in zip(sorted(engine.asked, key=lambda b: b["key"]), (7, 1), strict=True):
        assert (body["model"], body["max_tokens"], body["ignore_eos"], body["stream"]) == ("tiny", wanted, True, True)
        assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


async def test_times_are_ordered_and_the_queue_header_is_read(serve) -> None:
    _, server = await serve(answer)
    (seen,) = (await run_load(target(server), [due(t_s=0.05)])).exchanges
    assert seen.queue_s == 0.025
    assert seen.first_token_s is not None
    assert seen.ttft_s is not None
    assert seen.tpot_s is not None
    assert 0.05 <= seen.sent_s <= seen.first_token_s <= seen.end_s
    assert list(seen.times_s) == sorted(seen.times_s)
    assert seen.ttft_s == seen.first_token_s - 0.05
    assert 0 <= seen.tpot_s <= seen.end_s - seen.first_token_s


async def test_the_loop_is_open(serve) -> None:
    """The first answer is withheld until the last request has come: a client that waited would never send it."""
    everyone_came = asyncio.Event()

    async def withhold(engine: Engine, request: web.Request) -> web.StreamResponse:
        if len(engine.asked) == 40:
            everyone_came.set()
        await everyone_came.wait()
        return await answer(engine, request)

    _, server = await serve(withhold)
    only(await run_load(target(server), [due(t_s=k / 1000) for k in range(40)]), Ending.FINISHED)


async def test_a_thousand_at_once(serve) -> None:
    """No limit of a connection pool stands between the workload and the server."""
    everyone_came = asyncio.Event()

    async def withhold(engine: Engine, request: web.Request) -> web.StreamResponse:
        if engine.open_streams == 1000:
            everyone_came.set()
        await everyone_came.wait()
        return await answer(engine, request)

    _, server = await serve(withhold)
    record = await run_load(target(server), [due(output_tokens=2)] * 1000)
    only(record, Ending.FINISHED)
    assert record.endings()[Ending.FINISHED] == 1000


async def test_requests_over_the_limit_in_flight_are_recorded_not_delayed(serve) -> None:
    gate = asyncio.Event()

    async def withhold(engine: Engine, request: web.Request) -> web.StreamResponse:
        await gate.wait()
        return await answer(engine, request)

    engine, server = await serve(withhold)
    running = asyncio.create_task(run_load(target(server, max_in_flight=2), [due()] * 3))
    await engine.until_open(2)
    gate.set()
    record = await running
    assert record.exchanges[2].code == "client_limit"
    assert record.exchanges[2].ending is Ending.FAILED
    assert [e.ending for e in record.exchanges[:2]] == [Ending.FINISHED] * 2


@pytest.mark.parametrize(
    ("status", "ending"),
    [
        (401, Ending.REJECTED),
        (429, Ending.REJECTED),
        (503, Ending.REJECTED),
        (529, Ending.REJECTED),
        (500, Ending.FAILED),
        (504, Ending.FAILED),
    ],
)
async def test_a_refusal_is_told_from_a_failure(serve, status: int, ending: Ending) -> None:
    async def refuse(engine: Engine, request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"message": "no", "type": "t", "code": "tenant_queue_full"}}, status=status)

    _, server = await serve(refuse)
    record = await run_load(target(server), [due()])
    only(record, ending, "tenant_queue_full")
    assert record.codes() == {f"{status} tenant_queue_full": 1}
    assert record.exchanges[0].ttft_s is None


@pytest.mark.parametrize(
    ("last", "code"),
    [
        (b'data: {"error": {"message": "gone", "type": "upstream_error"}}\n\n', "upstream_error"),
        (b"data: {not json\n\n", "malformed_event"),
        (b"data: [1, 2]\n\n", "malformed_event"),
        (b"data: " + b"x" * (2 << 20), "event_too_large"),
        (b"", "truncated"),
    ],
)
async def test_a_stream_that_goes_wrong_keeps_what_it_produced(serve, last: bytes, code: str) -> None:
    async def break_off(engine: Engine, request: web.Request) -> web.StreamResponse:
        response = await stream_to(request)
        await response.write(event(3) + last)
        return response

    _, server = await serve(break_off)
    record = await run_load(target(server), [due()])
    only(record, Ending.FAILED, code)
    assert record.exchanges[0].output_tokens == 3


async def test_a_server_that_dies_mid_stream(serve) -> None:
    async def die(engine: Engine, request: web.Request) -> web.StreamResponse:
        response = await stream_to(request)
        await response.write(event(2))
        assert request.transport is not None
        request.transport.abort()
        return response

    _, server = await serve(die)
    record = await run_load(target(server), [due()])
    only(record, Ending.FAILED, "cut")


async def test_a_server_that_dies_before_its_answer_begins(serve) -> None:
    async def die(engine: Engine, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.StreamResponse()

    engine, server = await serve(die)
    record = await run_load(target(server), [due()])
    only(record, Ending.FAILED, "connection_lost")
    assert record.exchanges[0].status is None
    assert len(engine.asked) == 1, "a lost request is not sent again"


async def test_requests_are_told_apart_by_their_ids(serve) -> None:
    engine, server = await serve(answer)
    exchanges = [e for _ in range(2) for e in (await run_load(target(server), [due(), due(tenant="b")])).exchanges]
    assert {(body["id"], body["user"]) for body in engine.asked} == {(e.request_id, e.tenant) for e in exchanges}
    assert len({e.request_id for e in exchanges}) == 4
    assert not any("-" in e.request_id for e in exchanges)


ERROR = b'data: {"error": {"message": "gone", "code": "upstream_closed"}}\n\n'


@pytest.mark.parametrize(
    ("last", "ending", "markers"),
    [
        (b"data: [DONE]\n\n", Ending.FINISHED, (1, 0)),
        (b"data: [DONE]\n\n" * 2, Ending.FINISHED, (2, 0)),
        (b"data: [DONE]\n\n" + ERROR, Ending.FINISHED, (1, 1)),
        (ERROR, Ending.FAILED, (0, 1)),
        (ERROR + b"data: [DONE]\n\n", Ending.FAILED, (1, 1)),
        (b"", Ending.FAILED, (0, 0)),
    ],
)
async def test_the_first_terminal_marker_decides_and_all_are_counted(serve, last, ending, markers) -> None:
    async def end(engine: Engine, request: web.Request) -> web.StreamResponse:
        response = await stream_to(request)
        await response.write(event(1))
        for part in (last[:21], last[21:]):
            await response.write(part)
        return response

    _, server = await serve(end)
    (seen,) = (await run_load(target(server), [due()])).exchanges
    assert (seen.ending, (seen.done_markers, seen.error_events)) == (ending, markers)


async def test_a_server_that_died_before_the_load(serve) -> None:
    """Its last deed is to answer the check of the target."""
    engine, server = await serve(answer)
    engine.dies_after_check = True
    only(await run_load(target(server), [due(), due()]), Ending.FAILED, "connect_failed")
    assert not engine.asked


async def hang(engine: Engine, request: web.Request) -> web.StreamResponse:
    response = await stream_to(request)
    await response.write(event(1))
    await asyncio.Event().wait()
    return response


@pytest.mark.parametrize(
    ("limit", "code"), [({"request_timeout_s": 0.3}, "client_timeout"), ({"drain_s": 0.3}, "drain_ended")]
)
async def test_nothing_outlasts_its_limits(serve, limit: dict[str, float], code: str) -> None:
    engine, server = await serve(hang)
    record = await run_load(target(server, **limit), [due(), due()])
    only(record, Ending.ABORTED, code)
    await engine.until_open(0)


async def test_cancelling_a_run_closes_every_stream(serve) -> None:
    engine, server = await serve(hang)
    running = asyncio.create_task(run_load(target(server), [due()] * 20))
    await engine.until_open(20)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await engine.until_open(0)


async def test_without_usage_chunks_are_counted_and_the_last_usage_decides(serve) -> None:
    async def sparse(engine: Engine, request: web.Request) -> web.StreamResponse:
        response = await stream_to(request, queue_ms="soon")
        await response.write(event(0, text="", usage=False) + event(0, usage=False) + event(0, usage=False))
        await response.write(event(5, prompt=11, text="") + b"data: [DONE]\n\n")
        return response

    _, server = await serve(sparse)
    (seen,) = (await run_load(target(server), [due()])).exchanges
    assert list(seen.counts) == [1, 2, 5]
    assert (seen.input_tokens, seen.queue_s) == (11, None)


async def test_progress_is_told_until_the_end(serve) -> None:
    _, server = await serve(answer)
    told: list[tuple[float, str]] = []
    await run_load(target(server), [due()], progress=lambda what, part: told.append((part, what)))
    assert told
    assert all(0 <= part <= 1 and "in flight" in what for part, what in told)


async def test_a_target_that_cannot_be_loaded_is_named(serve) -> None:
    engine, server = await serve(answer)
    with pytest.raises(TargetError, match="no API key for tenant c"):
        await run_load(target(server), [due(tenant="c")])
    with pytest.raises(TargetError, match="no requests"):
        await run_load(target(server), [])
    wrong = Target(str(server.make_url("/v1")), {"a": "wrong"}, "tiny")
    with pytest.raises(TargetError, match=r"answers 401 to tenant a's key .*invalid_api_key"):
        await run_load(wrong, [due()])
    nobody = target(server)
    await server.close()
    with pytest.raises(TargetError, match=r"does not answer .*expected a running OpenAI-compatible server"):
        await run_load(nobody, [due()])
    assert not engine.asked


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"base_url": "localhost:80"}, "http://"),
        ({"drain_s": 0.0}, "drain_s"),
        ({"max_in_flight": -1}, "max_in_flight"),
        ({"entries": {"a": ["http://h", "h:80"]}}, "'h:80'.*http://"),
        ({"entries": {"a": []}}, "no entry for tenant a"),
        ({"path": "/v1/embeddings"}, "path is .*/v1/completions"),
    ],
)
def test_a_target_is_validated(settings: dict[str, object], wrong: str) -> None:
    with pytest.raises(TargetError, match=wrong):
        Target(**({"base_url": "http://h", "keys": {}, "model": "m"} | settings))  # type: ignore[arg-type]


def test_prompts_converge_on_the_tokenizer() -> None:
    """Control: without `observe` a prompt for a tokenizer of two tokens a word is 1.5 times as long as wanted."""
    prompts = Prompts()
    untaught = 2 * len(prompts.build(600).split())
    for _ in range(20):
        words = len(prompts.build(600).split())
        prompts.observe(words, 2 * words)
    assert untaught > 900
    assert abs(2 * len(prompts.build(600).split()) - 600) < 20
