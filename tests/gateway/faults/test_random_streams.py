"""Thousands of random requests, many at once, against little room: each is charged what its engine said, to the unit.

A stream that ended by itself is charged for all of it, one that was cut for what an engine had said at some moment
between the last event that its client saw whole and the last that the engine sent. In the end nothing is held.
"""

from __future__ import annotations

import asyncio
import gc
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from pathlib import Path as File
from random import Random
from typing import cast

import pytest

from fairness import Ticket
from fairness.shares import MILLI, milli
from gateway.config.schema import Limits, Listen
from gateway.http.server import HttpServer
from gateway.openai.registry import ENDPOINTS
from gateway.record import Record
from gateway.tenants.auth import Keyring
from gateway.tenants.directory import TenantDirectory

from ..conftest import until
from ..raw_engine import CLOSE, Answer, Asked, RawEngine
from .path import Path
from .plan import Attempt, Plan, State, draw

STREAMS = 10_000 if os.environ.get("HYPOTHESIS_PROFILE") == "deep" else 2_000
AT_ONCE = 16
HELD = ("Job", "Exchange", "Delivery", "EventStream", "WholeAnswer", "WorkerConnection", "ClientConnection", "HttpCall")


class Client(asyncio.Protocol):
    """One request over a connection of its own. `left`: it went before it had all of its answer."""

    def __init__(self, plan: Plan) -> None:
        self.received = bytearray()
        self.left = False
        self.lost = asyncio.get_running_loop().create_future()
        self._plan = plan

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._plan.request())
        if self._plan.slow:
            self._transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self.whole():
            self._transport.close()
        elif self._plan.leaves_after is not None:
            what, most = self._plan.leaves_after
            if what == "bytes" and len(self.received) >= most:
                self.leave()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set_result(None)

    def leave(self) -> None:
        if not self.whole() and not self.lost.done():
            self.left = True
            (self._transport.abort if self._plan.abruptly else self._transport.close)()

    def whole(self) -> bool:
        head, found, body = bytes(self.received).partition(b"\r\n\r\n")
        if b"Transfer-Encoding: chunked" in head:
            return body.endswith(b"0\r\n\r\n")
        size = head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]
        return bool(found) and len(body) == int(size)

    def events(self) -> int:
        """Whole events that it has. Nothing else in an answer holds two line feeds in a row."""
        return self.received.count(b"\n\n") - self.received.count(b"data: [DONE]\n\n")


class Street:
    """A path with its edge in front, and clients in front of that. `held`: what there was at its first request."""

    def __init__(self, path: Path, chance: Random) -> None:
        directory = TenantDirectory(path.config.tenants)
        limits = Limits(max_unsent_bytes=262_144)
        self.server = HttpServer(path.hotpath.serve, Keyring(directory).tenant, ENDPOINTS, {}, limits)
        self.path = path
        self.plans = {plan.name: plan for plan in (draw(number, chance) for number in range(STREAMS // 2))}
        self.clients: dict[str, Client] = {}
        self.port = 0
        self.held = Counter[str]()
        path.engines[0].answer = lambda asked: self._answer(asked, knows_continuous=True)
        path.engines[1].answer = lambda asked: self._answer(asked, knows_continuous=False)

    def _answer(self, asked: Asked, knows_continuous: bool) -> Answer:
        self.held = self.held or _objects()
        return self.plans[asked.request_id.split("-")[0]].answer(asked, knows_continuous)

    async def serve_all(self) -> None:
        """Returns when the last is over, and what was open is closed."""
        self.port = await self.server.start(Listen(port=0))
        plans = iter(list(self.plans.values()))
        try:
            await asyncio.gather(*(self._one_after_the_other(plans) for _ in range(AT_ONCE)))
            await until(lambda: not len(self.server.census))
            assert await self.path.hotpath.live.idle(60)
            self.path.check()
            assert self.server.memory.total == 0, "a body is still accounted for"
        finally:
            await self.server.close()
            await self.path.close()

    async def _one_after_the_other(self, plans: Iterable[Plan]) -> None:
        loop = asyncio.get_running_loop()
        for plan in plans:
            _, client = await loop.create_connection(lambda plan=plan: Client(plan), "127.0.0.1", self.port)
            self.clients[plan.name] = client
            if plan.leaves_after is not None and plan.leaves_after[0] == "turns":
                for _ in range(plan.leaves_after[1]):
                    await asyncio.sleep(0)
                client.leave()
            if plan.slow:
                await until(lambda plan=plan: any(record.request_id == plan.name for record in self.path.records[-99:]))
                client.leave()
            await client.lost


@pytest.fixture
async def engines() -> AsyncIterator[list[RawEngine]]:
    running = [await RawEngine(lambda asked: Answer([])).start() for _ in range(2)]
    yield running
    for engine in running:
        await engine.stop()


@pytest.mark.parametrize("policy", ["vtc", "lcf"])
async def test_each_of_thousands_is_charged_what_its_engine_said(
    engines: list[RawEngine], policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With `vtc` the bound holds all the while. With `lcf`, which lifts nobody and has no bound, the counters in the
    end are the sums of what was charged and nothing else."""
    caplog.set_level("ERROR")
    seed = Random().randrange(2**32) if STREAMS > 2_000 else 1
    files, objects = _files(), _objects()
    path = Path(engines, slots=2, policy=policy, predict="ewma", cost="weighted:1,2,0.25")
    path.forget_engines()
    street = Street(path, Random(seed))
    await street.serve_all()
    assert not caplog.records, f"seed {seed}: {caplog.records[0].getMessage()}"

    charged = Counter[str]()
    records = {record.request_id: record for record in path.records}
    tickets = {ticket.id.rpartition("-")[0]: (ticket, estimate) for ticket, estimate in path.submitted}
    for name, plan in street.plans.items():
        verdict = Verdict(plan, street.clients[name], records.get(name), *tickets.get(name, (None, 0)))
        try:
            verdict.check(path)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, request {name}: {error}\n{plan}\n{verdict}") from None
        charged.update(verdict.charges())
    assert len(records) == len(path.records), "one was told of twice"
    if policy == "vtc":
        assert path.pool.crossings() == 0
    else:
        counters = {name: state.counter * MILLI for name, state in path.pool.snapshot()[0].tenants.items()}
        assert counters == dict(charged)
    assert _all_happened(street, records)
    assert street.held["Job"], "what is held cannot be counted"

    del street, verdict, plan, records, tickets, path
    await until(lambda: not any(engine.connections for engine in engines))
    if files is not None:
        await until(lambda: (_files() or 0) <= files)
    await until(lambda: _objects() <= objects)


class Verdict:
    """On one request: `estimate` is what its input was taken for before it was counted."""

    def __init__(self, plan: Plan, client: Client, record: Record | None, ticket: Ticket | None, estimate: int) -> None:
        self.plan = plan
        self.client = client
        self.record = record
        self.ticket = ticket
        self.estimate = estimate

    def __str__(self) -> str:
        record, ticket = self.record, self.ticket
        seen = f"{self.client.events()} events, left {self.client.left}, {bytes(self.client.received[-300:])!r}"
        told = record and f"{record.outcome}, {record.attempts} attempts, first byte {record.first_byte}"
        had = ticket and (ticket.produced, ticket.input_tokens, ticket.cached_tokens, len(ticket.accounts))
        return f"client: {seen}\nrecord: {told}\nticket: {had}, estimate {self.estimate}"

    def charges(self) -> dict[str, int]:
        """By tenant, in units of counters."""
        if self.ticket is None or not self.ticket.accounts:
            return {}
        (account,) = self.ticket.accounts
        return {self.ticket.tenant: account.charged}

    def check(self, path: Path) -> None:
        plan, record, ticket = self.plan, self.record, self.ticket
        if record is None or ticket is None:  # gone before its request was read, or before it was queued
            assert not plan.attempts
            return
        if plan.leaves_after is None and not plan.slow:
            assert self.client.whole(), "its client has no whole answer"
            assert plan.fault or record.outcome == "ok", "nothing was wrong with it"
        if not ticket.accounts:
            assert self._may_be_free(record), "it is charged nothing"
            assert record.service == 0
            return
        had = State(ticket.produced, ticket.input_tokens, ticket.cached_tokens)
        self._check_state(record, had)
        (account,) = ticket.accounts
        service = path.cost.service(ticket.input_tokens, ticket.produced, ticket.cached_tokens)
        assert account.weight == (1.0 if plan.key == "key-a" else 3.0)
        assert account.charged == milli(service, account.weight), "what it is charged is not what it costs"
        assert record.service == service
        assert (record.output_tokens, record.input_tokens, record.cached_tokens) == had

    def _last(self, record: Record) -> Attempt | None:
        """The attempt that counts, where the engine knows of it."""
        last = self.plan.attempts[-1] if self.plan.attempts else None
        return last if last is not None and last.number == record.attempts else None

    def _may_be_free(self, record: Record) -> bool:
        """Only what no engine served: it was refused, or failed before there was anything."""
        last = self._last(record)
        if record.outcome == "ok" or self.client.events() > 1:
            return False
        return last is None or not last.good

    def _check_state(self, record: Record, had: State) -> None:
        last = self._last(record)
        if record.outcome == "client_closed" and not self.plan.stream and record.first_byte is None:
            assert self.client.left
            assert had == State(had.produced, self.estimate, 0)
            assert 0 <= had.produced <= self.plan.max_tokens * self.plan.choices * self.plan.prompts, "more than it may"
            return
        if last is None:
            assert record.outcome == "client_closed"
            assert had == State(0, self.estimate, 0)
            return
        allowed = last.states[self._least(record, last) : last.written() + 1]
        assert had in [state._replace(input=state.input or self.estimate) for state in allowed], f"not of {allowed}"

    def _least(self, record: Record, last: Attempt) -> int:
        """Events that the gateway has seen for certain: all, unless it was kept from reading them."""
        if record.outcome == "ok":
            return len(last.states) - 1
        if not self.plan.stream:
            return 1
        if record.outcome == "client_closed" or (last.answer.then != CLOSE and self.plan.fault == "dies"):
            return max(0, self.client.events() - (record.outcome != "client_closed"))  # an error is an event, too
        return last.written()


def _all_happened(street: Street, records: dict[str, Record]) -> bool:
    """A test in which nothing went wrong would show nothing."""
    outcomes = Counter(record.outcome for record in records.values())
    expected = {"ok", "client_closed", "upstream_closed", "upstream_error", "upstream_status"}
    assert expected <= set(outcomes), outcomes
    assert any(record.overflows for record in records.values())
    assert any(len(plan.attempts) > 1 for plan in street.plans.values())
    return True


def _files() -> int | None:
    """Open ones, where the system tells."""
    folder = File("/proc/self/fd")
    return sum(1 for _ in folder.iterdir()) if folder.exists() else None


def _objects() -> Counter[str]:
    gc.collect()
    return Counter(name for item in gc.get_objects() if (name := type(item).__name__) in HELD)
