"""A fault at every callback: whatever goes wrong in the middle of a read, everything is given back.

Streams are not awaited but pumped (see delivery.py), so the awaits are not all the places where a request may end. The
places here are the moments just before and just after each call into the receiver of an engine's answer, into the pool
and into the client; at each in turn the client leaves, or the call raises.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gateway.errors import UpstreamError
from gateway.ports import ClientGone

from ..conftest import until
from ..engine import Script, stream_chunks, whole_answer
from ..raw_engine import ABORT, CLOSE, HOLD, Answer, Asked, RawEngine, chunked, event, http
from .path import Path, Places, WatchedCall

BODY = b'{"model":"m","messages":[],"max_tokens":3,"stream":%s}'
ERROR = {"error": {"message": "worker died", "type": "InternalServerError", "code": 500}}


def served(asked: Asked) -> Answer:
    body = asked.json()
    if not body.get("stream"):
        return Answer([http(200, _json(whole_answer(asked.path, body, Script())))])
    return Answer(chunked([*map(event, stream_chunks(asked.path, body, Script())), event(b"[DONE]")]))


def _json(value: dict[str, Any]) -> bytes:
    return event(value)[6:-2]


def cut_off(pieces: int) -> Callable[[Asked], Answer]:
    """Of a stream so many pieces come; of an answer without events half."""

    def answer(asked: Asked) -> Answer:
        whole = served(asked)
        if len(whole.pieces) == 1:
            return Answer([whole.pieces[0][:-20]], CLOSE)
        return Answer(whole.pieces[:pieces], CLOSE)

    return answer


def error_after(pieces: int) -> Callable[[Asked], Answer]:
    def answer(asked: Asked) -> Answer:
        if len(served(asked).pieces) == 1:
            return Answer([http(200, _json(ERROR))])
        shown = chunked([event(ERROR)])[1:]
        return Answer([*served(asked).pieces[:pieces], *shown])

    return answer


def refuses_usage(asked: Asked) -> Answer:
    if b"continuous_usage_stats" in asked.body:
        return Answer([http(400, b'{"error":{"message":"continuous_usage_stats: not permitted"}}')])
    return served(asked)


TROUBLES: dict[str, Callable[[Asked], Answer]] = {
    "none": served,
    "overflow": lambda asked: Answer([http(503, b"{}")]),
    "refuses": lambda asked: Answer([http(400, b"{}")]),
    "broken": lambda asked: Answer([http(500, b"{}")]),
    "refuses usage": refuses_usage,
    "dies before its head": lambda asked: Answer([], ABORT),
    "dies before an event": cut_off(1),
    "dies after an event": cut_off(3),
    "error event first": error_after(1),
    "error event later": error_after(3),
    "kept connection lost": lambda asked: Answer([], CLOSE) if asked.number else served(asked),
    "silent from the start": lambda asked: Answer([], HOLD),
    "falls silent": lambda asked: Answer(served(asked).pieces[:3], HOLD) if b"true" in asked.body else Answer([], HOLD),
}
IMPATIENT = {"first_byte_s": 0.02, "idle_s": 0.02, "answer_s": 0.02}
PATIENT = {"first_byte_s": 60.0, "idle_s": 60.0, "answer_s": 60.0}


def leaves(call: WatchedCall, task: asyncio.Task[None], name: str) -> None:
    call.gone = True
    task.cancel()


def cannot_be_written_to(call: WatchedCall, task: asyncio.Task[None], name: str) -> None:
    """As the edge finds out that a client is cut off."""
    if name.startswith("before call."):
        call.gone = True
        raise ClientGone


def is_broken(call: WatchedCall, task: asyncio.Task[None], name: str) -> None:
    """A pool that does not take a ticket back keeps it, whatever else is done: every other call may break."""
    if name != "before pool.leave":
        raise RuntimeError("a fault of our own")


def engine_is_broken(call: WatchedCall, task: asyncio.Task[None], name: str) -> None:
    """After its end an answer cannot turn out to be none."""
    if "receiver." in name and name != "after receiver.eof":
        raise UpstreamError("closed", "found out late")


FAULTS = (leaves, cannot_be_written_to, is_broken, engine_is_broken)


@pytest.fixture
async def engines() -> AsyncIterator[list[RawEngine]]:
    running = [await RawEngine(served).start() for _ in range(2)]
    yield running
    for engine in running:
        await engine.stop()


async def serve(path: Path, body: bytes, at: int, fault: Callable[..., None]) -> tuple[Places, WatchedCall, Any]:
    """One call, with a fault at a place. Returns what came out of it, too."""

    def act(name: str) -> None:
        fault(call, task, name)

    places = Places(at, act)
    call = path.watch(places, body)
    task = asyncio.create_task(path.hotpath.serve(call))
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    return places, call, outcome


async def all_is_given_back(path: Path, ended: int) -> None:
    path.check()
    assert await path.hotpath.live.idle(0), "the shutdown would wait for it"
    assert len(path.records) == ended, "it is not told once that it is over"
    assert len(asyncio.all_tasks()) == 1, "a task is left"
    await until(path.connections_are_kept)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "whole"])
async def test_a_fault_at_every_callback(
    engines: list[RawEngine], streamed: bool, trouble: str, fault: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL")  # each fault of our own is logged with its stack, as it should be
    silent = "silent" in trouble
    path = Path(engines, IMPATIENT if silent else PATIENT)
    calm = Path(engines, PATIENT)
    body = BODY % (b"true" if streamed else b"false")
    at, reached = 0, True
    while reached:
        at += 1
        path.forget_engines()
        engines[0].answer = TROUBLES[trouble]
        places, call, outcome = await serve(path, body, at, fault)
        reached = bool(places.name)
        if not isinstance(outcome, RuntimeError):
            assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome
            assert call.over or call.gone, f"{places.name}: the client waits for ever"
        else:  # of the edge itself, which hears of it
            assert "call.end" in places.name or "call.reply" in places.name
        assert not call.kept, "its body is still accounted for"
        await all_is_given_back(path, at)
    engines[0].answer = served
    _, call, _ = await serve(calm, body, 0, fault)
    assert (call.status, calm.records[-1].output_tokens) == (200, 3)
    assert at > 4
    await path.close()
    await calm.close()


async def test_who_leaves_as_a_whole_answer_comes_pays_for_what_that_says(engines: list[RawEngine]) -> None:
    """At each call that the read makes in which all of it came. It ran for a while, which may be worth 100 tokens; but
    now it is known that it was 3."""
    three = _json(whole_answer("/v1/chat/completions", {"model": "m"}, Script(text=[["x"] * 3])))
    path = Path(engines, PATIENT)
    for engine in engines:
        engine.answer = lambda asked: Answer([http(200, three)])
        path.known[engine.url].pace.ended(10**9, 1, 1.0)
    body = b'{"model":"m","messages":[],"max_tokens":100}'
    at, name = 0, ""
    while name != "after receiver.eof":
        at += 1
        places, call, _ = await serve(path, body, at, leaves)
        name = places.name
        assert name, "the read made no call to end with"
        if name.endswith("receiver.sent"):  # of another moment
            continue
        assert call.sent == b""
        assert path.records[-1].outcome == "client_closed"
        assert (path.records[-1].output_tokens, path.submitted[-1][0].produced) == (3, 3), name
    await path.close()
