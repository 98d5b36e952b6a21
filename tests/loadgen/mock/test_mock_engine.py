"""The mock engine: its batch step by step, and its protocol through real sockets, also as a process that is killed."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairgate.topology.processes import Program, free_port
from gateway.app import build
from gateway.config.load import parse_config
from gateway.openai.estimate import raw_tokens
from loadgen.client.open_loop import run_load
from loadgen.client.record import Ending, LoadRecord
from loadgen.client.target import Target
from loadgen.errors import LoadgenError
from loadgen.judge.engines import EngineRecord, read_service_logs
from loadgen.mock.engine import BatchEngine, EngineSettings, Event, Generation
from loadgen.mock.log import ServiceLogWriter
from loadgen.mock.openai import read_ask
from loadgen.mock.server import MockServer
from loadgen.workloads.prompts import WordPrompts
from loadgen.workloads.workload import Request

COMPLETIONS = "/v1/completions"


def engine(slots: int = 2, kv_tokens: int = 1000, prefill: float = 0.0) -> BatchEngine:
    return BatchEngine(EngineSettings(slots, kv_tokens, 1.0, prefill))


def told(events: Iterable[Event]) -> list[str]:
    return [f"{event.generation.id} {event.kind} {event.tokens}" for event in events]


# -- the batch -----------------------------------------------------------------------------------------------------


def test_a_step_gives_every_running_request_one_token() -> None:
    batch = engine()
    batch.submit(Generation("1", "a", 10, 2))
    batch.submit(Generation("2", "b", 20, 1))
    assert told(batch.step(0.0)) == ["1 input 10", "1 output 1", "2 input 20", "2 output 1", "2 end 1"]
    assert told(batch.step(1.0)) == ["1 output 1", "1 end 2"]
    assert told(batch.step(2.0)) == []


def test_above_its_slots_it_queues_inside_and_says_so() -> None:
    batch = engine(slots=1)
    for name in "123":
        batch.submit(Generation(name, "a", 5, 1))
    assert [told(batch.step(float(now)))[-1] for now in range(3)] == ["1 end 1", "2 end 1", "3 end 1"]
    assert (batch.peaks.running, batch.peaks.in_flight) == (1, 3)


def test_above_its_tokens_it_queues_inside_and_passes_nobody() -> None:
    """The second does not fit beside the first, and the third, which would, does not overtake it."""
    batch = engine(slots=3, kv_tokens=20)
    for name, n_in in (("1", 10), ("2", 10), ("3", 1)):
        batch.submit(Generation(name, "a", n_in, 2))
    assert told(batch.step(0.0)) == ["1 input 10", "1 output 1"]
    assert batch.peaks == (1, 3, 22, 27)  # running, in flight, tokens held and reserved
    assert told(batch.step(1.0)) == ["1 output 1", "1 end 2"]
    assert told(batch.step(2.0))[::2] == ["2 input 10", "3 input 1"]


def test_prefills_run_one_after_the_other() -> None:
    batch = engine(prefill=0.1)
    batch.submit(Generation("1", "a", 10, 5))
    batch.submit(Generation("2", "a", 20, 5))
    first = {}
    for now in range(5):
        first |= {event.generation.id: now for event in batch.step(float(now)) if event.kind == "input"}
    assert first == {"1": 1, "2": 3}


def test_what_was_aborted_leaves_at_the_next_step() -> None:
    batch = engine(slots=1)
    runs, waits, last = (Generation(name, "a", 5, 9) for name in "123")
    for generation in (runs, waits, last):
        batch.submit(generation)
    batch.step(0.0)
    runs.abort()
    waits.abort()
    assert told(batch.step(1.0)) == ["1 abort 1", "2 abort 0", "3 input 5", "3 output 1"]
    assert batch.running == [last]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 30), st.integers(1, 8)), min_size=1, max_size=30),
    st.integers(1, 4),
    st.sampled_from((0.0, 0.03)),
)
def test_every_request_gets_exactly_what_it_asked_for(
    sizes: list[tuple[int, int, int]], slots: int, prefill: float
) -> None:
    batch = engine(slots, 40, prefill)
    coming = sorted((due, i, n_in, n_out) for i, (due, n_in, n_out) in enumerate(sizes))
    events: list[Event] = []
    for now in range(sum(n_out + 2 for _, _, n_out in sizes) + 12):
        while coming and coming[0][0] <= now:
            _, i, n_in, n_out = coming.pop(0)
            batch.submit(Generation(str(i), "a", n_in, n_out))
        step = batch.step(float(now))
        assert max(Counter(event.generation.id for event in step if event.kind == "output").values(), default=1) == 1
        assert sum(event.kind == "output" for event in step) <= slots
        events += step
    total = Counter[tuple[str, str]]()
    for event in events:
        total[event.generation.id, event.kind] += event.tokens
    wanted = {(str(i), kind): n for i, (_, n_in, n_out) in enumerate(sizes) for kind, n in _kinds(n_in, n_out)}
    assert total == wanted
    assert batch.peaks.running <= slots


def _kinds(n_in: int, n_out: int) -> tuple[tuple[str, int], ...]:
    return ("input", n_in), ("output", n_out), ("end", n_out)


@pytest.mark.parametrize("wrong", [{"slots": 0}, {"kv_tokens": 1}, {"step_s": 0.0}, {"model": ""}])
def test_settings_are_validated(wrong: dict[str, Any]) -> None:
    with pytest.raises(LoadgenError, match=f"mock engine: {next(iter(wrong))} is .*expected"):
        EngineSettings(**({"slots": 1, "kv_tokens": 10} | wrong))


# -- through sockets -----------------------------------------------------------------------------------------------

Serve = Callable[..., Awaitable[MockServer]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    servers: list[MockServer] = []

    async def start(slots: int = 4, kv_tokens: int = 1000, step_s: float = 0.002) -> MockServer:
        server = MockServer(EngineSettings(slots, kv_tokens, step_s), tmp_path / f"{len(servers)}.log")
        servers.append(server)
        await server.start()
        return server

    yield start
    for server in servers:
        await server.close()


def logged(tmp_path: Path) -> EngineRecord:
    return read_service_logs(*sorted(tmp_path.glob("*.log")))


def target(*servers: MockServer, **more: Any) -> Target:
    return Target(servers[0].url, {"a": "key-a", "b": "key-b"}, "mock", **more)


def agree(record: LoadRecord, engines: EngineRecord) -> None:
    """Client and engines tell the same of every finished request."""
    work = engines.requests()
    for seen in record.exchanges:
        done = work[seen.request_id]
        assert (seen.ending, seen.done_markers, seen.error_events) == (Ending.FINISHED, 1, 0)
        assert (done.tenant, done.input_tokens, done.output_tokens) == (
            seen.tenant,
            seen.wanted_input_tokens,
            seen.wanted_output_tokens,
        )
        assert (seen.input_tokens, seen.output_tokens) == (done.input_tokens, done.output_tokens)
        assert (done.inputs, done.ends, done.aborts) == (1, 1, 0)


async def post(server: MockServer, path: str = COMPLETIONS, **body: Any) -> tuple[int, Any]:
    asked = {"model": "mock", "user": "a", "max_tokens": 3, **body}
    async with aiohttp.ClientSession() as session, session.post(server.url + path, json=asked) as response:
        return response.status, await response.json()


async def said_until_closed(server: MockServer, data: bytes) -> bytes:
    """What the server answers to `data` before it closes the connection, which it must do by itself."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    said = b""
    try:
        writer.write(data)
        async with asyncio.timeout(20):
            with suppress(ConnectionResetError):
                while part := await reader.read(1 << 16):
                    said += part
    finally:
        writer.close()
    return said


async def until(reached: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not reached():  # noqa: ASYNC110 - there is no event to wait on
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("path", [COMPLETIONS, "/v1/chat/completions"])
async def test_counts_are_exact_and_the_log_says_what_clients_saw(serve: Serve, tmp_path: Path, path: str) -> None:
    server = await serve()
    load = [Request(i / 1000, "ab"[i % 2], 1 + i, 1 + i % 7) for i in range(30)]
    agree(await run_load(target(server, path=path), load, prompts=WordPrompts()), logged(tmp_path))


async def test_an_answer_without_a_stream(serve: Serve) -> None:
    server = await serve()
    usage = {"prompt_tokens": 2, "total_tokens": 5, "completion_tokens": 3}
    status, answer = await post(server, prompt=[7, 8])
    assert (status, answer["choices"][0]["text"], answer["usage"]) == (200, "xxx", usage)
    status, answer = await post(
        server, "/v1/chat/completions", messages=[{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]
    )
    choice = answer["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"], answer["usage"]) == ("xxx", "length", usage)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"prompt": ""}, 400, "at least one token"),
        ({"prompt": "x", "max_tokens": -1}, 400, "max_tokens of at least 1"),
        ({"prompt": "x", "n": 2}, 400, "n = 1"),
        ({"prompt": 7}, 400, "cannot be read"),
        ({}, 400, "prompt"),
        ({"prompt": "x " * 1000}, 400, "1000 input tokens; expected fewer than 1000"),
        ({"prompt": "x", "model": "other"}, 404, "'other' does not exist; expected 'mock'"),
    ],
)
async def test_what_it_does_not_take_it_names(serve: Serve, body: dict[str, Any], status: int, said: str) -> None:
    found, answer = await post(await serve(), **body)
    assert (found, answer["error"]["type"]) == (status, "invalid_request_error")
    assert said in answer["error"]["message"]


async def test_an_unknown_url_and_bytes_that_are_no_http(serve: Serve) -> None:
    server = await serve()
    assert (await post(server, "/v1/embeddings"))[0] == 404
    assert await said_until_closed(server, b"\x16\x03\x01\x00\r\n\r\n") == b""


async def test_a_client_that_leaves_frees_its_slot(serve: Serve, tmp_path: Path) -> None:
    """Only one slot: the second request runs because the first, which would last for ever, was dropped."""
    server = await serve(slots=1, kv_tokens=10**9)
    body = {"model": "mock", "user": "a", "stream": True, "max_tokens": 10**8, "prompt": "x"}
    async with aiohttp.ClientSession() as session:
        async with session.post(server.url + COMPLETIONS, json=body) as response:
            await response.content.readany()
            response.close()
        assert (await post(server, prompt="x y"))[0] == 200
    events = [(line.event, line.tokens) for line in logged(tmp_path).served if line.event in ("abort", "end")]
    assert [event for event, _ in events] == ["abort", "end"]
    assert events[0][1] == sum(line.event == "output" for line in logged(tmp_path).served) - 3


async def test_steps_keep_to_their_times_and_catch_up(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is held up for 50 steps: none is left out, none moves the others, and in the end it is on time."""
    server = await serve(step_s=0.01)
    due: list[float] = []
    monkeypatch.setattr(server.engine, "step", lambda now: due.append(now) or [])
    await until(lambda: due)
    time.sleep(0.5)  # noqa: ASYNC251 - the fault
    held_up_until = asyncio.get_running_loop().time()
    assert due[-1] < held_up_until - 0.4
    await until(lambda: due[-1] >= held_up_until)
    assert [later - earlier for earlier, later in pairwise(due)] == pytest.approx([0.01] * (len(due) - 1))


@pytest.mark.parametrize("tokens", [1, 7, 1000])
def test_word_prompts_are_as_long_as_they_should_be(tokens: int) -> None:
    """By the count of the engine, and by the estimate of the gateway, which has not seen the engine's."""
    body = {"prompt": WordPrompts().build(tokens), "model": "m", "max_tokens": 1}
    assert read_ask(COMPLETIONS, json.dumps(body).encode()).input_tokens == tokens
    assert raw_tokens(body) == tokens


async def test_a_connection_that_is_not_to_be_kept_is_closed_after_the_answer(serve: Serve) -> None:
    said = await said_until_closed(await serve(), b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b'num_gpu_blocks="1000",max_num_seqs="4"' in said


async def test_two_requests_at_once_on_one_connection_are_not_mixed_up(serve: Serve) -> None:
    server = await serve()
    body = json.dumps({"model": "mock", "stream": True, "max_tokens": 10**6, "prompt": "x"}).encode()
    request = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    assert b"[DONE]" not in await said_until_closed(server, request + request)
    await until(lambda: not server.engine.running and not server.engine.waiting)


async def test_a_gateway_finds_its_room_and_keeps_to_it(serve: Serve, tmp_path: Path) -> None:
    """Control: the same load sent to the engine itself puts more on it than it takes."""
    server = await serve(slots=3, kv_tokens=64)
    config = {
        "listen": {"port": 0},
        "pools": {"main": {"models": ["mock"], "workers": [{"url": server.url}], "predict": "max_tokens"}},
        "tenants": [{"id": t, "keys_sha256": [sha256(f"key-{t}".encode()).hexdigest()]} for t in "ab"],
        "health": {"interval_s": 0.05},
    }
    load = [Request(i / 1000, "ab"[i % 2], 8 + i % 5, 8) for i in range(40)]
    gateway = build(parse_config(config))
    await gateway.start()
    try:
        await until(gateway.ready)
        (worker,) = gateway.pools["main"].snapshot()[1]
        assert (worker.slots, worker.tokens) == (3, 64)
        through = Target(f"http://127.0.0.1:{gateway.port}", {"a": "key-a", "b": "key-b"}, "mock", path=COMPLETIONS)
        agree(await run_load(through, load, prompts=WordPrompts()), logged(tmp_path))
    finally:
        await gateway.close()
    (kept,) = logged(tmp_path).engines.values()
    assert kept.peaks.in_flight == kept.peaks.running == 3
    assert kept.peaks.tokens_reserved <= 64
    await run_load(target(server, path=COMPLETIONS), load, prompts=WordPrompts())
    (pressed,) = logged(tmp_path).engines.values()
    assert pressed.peaks.in_flight > 3
    assert pressed.peaks.tokens_held > 64
    assert pressed.peaks.running == 3


async def test_each_tenant_enters_through_its_own_addresses_in_turn(serve: Serve, tmp_path: Path) -> None:
    one, two, three = [await serve() for _ in range(3)]
    entries = {"a": [one.url, two.url + "/v1"], "b": [three.url]}
    load = [Request(i / 1000, tenant, 4, 2) for i in range(6) for tenant in "ab"]
    record = await run_load(target(one, entries=entries), load, prompts=WordPrompts())
    agree(record, logged(tmp_path))
    where = Counter((line.tenant, line.engine.name) for line in logged(tmp_path).served if line.event == "end")
    assert where == {("a", "0.log"): 3, ("a", "1.log"): 3, ("b", "2.log"): 6}
    assert [e.gateway for e in record.exchanges if e.tenant == "a"] == [one.url, two.url + "/v1"] * 3


async def test_only_what_a_dead_address_held_is_lost(serve: Serve, tmp_path: Path) -> None:
    dies, lives = await serve(kv_tokens=10**9), await serve()
    entries = {"a": [dies.url, lives.url]}
    load = [Request(0.0, "a", 4, 10**6), Request(0.0, "a", 4, 3)]
    loading = asyncio.create_task(run_load(target(dies, entries=entries), load, prompts=WordPrompts()))
    await until(lambda: any('"output"' in line for line in (tmp_path / "0.log").read_text().splitlines()))
    await dies.close()
    cut, whole = (await loading).exchanges
    assert (cut.ending, cut.code, cut.done_markers, cut.error_events) == (Ending.FAILED, "cut", 0, 0)
    assert (whole.ending, whole.output_tokens, whole.done_markers) == (Ending.FINISHED, 3, 1)
    assert cut.output_tokens <= logged(tmp_path).requests()[cut.request_id].output_tokens


# -- as a process --------------------------------------------------------------------------------------------------


async def test_a_process_that_is_killed_has_logged_all_that_it_sent(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "engine.log"
    options = ("--port", str(port), "--log", str(log), "--slots", "5", "--kv-tokens", "100000000", "--step-ms", "2")
    url = f"http://127.0.0.1:{port}"
    load = [Request(0.0, "ab"[i % 2], 4, 10**6) for i in range(5)]
    with Program("mock engine", "mock-engine", *options, log=tmp_path / "out") as program:
        await asyncio.to_thread(program.wait_ready, url + "/health", 30.0)
        sending = asyncio.create_task(run_load(Target(url, {"a": "k", "b": "k"}, "mock"), load, prompts=WordPrompts()))
        await until(lambda: log.read_text().count('"output"') > 50)
        program.process.send_signal(signal.SIGKILL)
        record = await sending
    assert [e.code for e in record.exchanges] == ["cut"] * 5
    work = read_service_logs(log).requests()
    assert all(0 < e.output_tokens <= work[e.request_id].output_tokens for e in record.exchanges)
    with Program("mock engine", "mock-engine", *options, log=tmp_path / "out") as program:
        await asyncio.to_thread(program.wait_ready, url + "/health", 30.0)
        again = [Request(0.0, "a", 4, 5)]
        (seen,) = (await run_load(Target(url, {"a": "k"}, "mock"), again, prompts=WordPrompts())).exchanges
        assert program.stop() == 0
    engines = read_service_logs(log)
    assert [(e.slots, e.starts) for e in engines.engines.values()] == [(5, 2)]
    assert engines.requests()[seen.request_id].output_tokens == 5


def test_a_log_that_was_torn_goes_on_in_a_line_of_its_own(tmp_path: Path) -> None:
    log, settings = tmp_path / "engine.log", EngineSettings(1, 10)
    with ServiceLogWriter(log, settings, 1.0) as writer:
        writer.write(2.0, [Event("output", Generation("1", "a", 1, 1), 1)])
    log.write_bytes(log.read_bytes()[:-9])
    ServiceLogWriter(log, settings, 3.0).close()
    found = read_service_logs(log)
    assert found.engines[log].starts == 2
    assert not found.served
