"""A live run measured: by hand on made-up exchanges, and end to end on a server with a real fair queue."""

from __future__ import annotations

import asyncio
import json
from array import array
from dataclasses import replace

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from fairness import Scheduler, Ticket, Weighted, Worker, WorkerRoom, parse_policy
from loadgen.client.open_loop import run_load
from loadgen.client.record import Ending, Exchange, LoadRecord
from loadgen.client.target import Target
from loadgen.judge.live import measure
from loadgen.judge.results import Outcome, Run
from loadgen.judge.saturation import live_comparison, saturation
from loadgen.workloads.arrivals import steady_load

COST = Weighted()


def exchange(
    tenant: str = "a",
    arrival_s: float = 0.0,
    times: tuple[float, ...] = (3.0, 4.0, 6.0),
    counts: tuple[int, ...] = (1, 2, 5),
    ending: Ending = Ending.FINISHED,
    queue_s: float | None = 2.0,
    end_s: float = 6.0,
    code: str = "",
) -> Exchange:
    return Exchange(
        tenant,
        "m",
        arrival_s,
        9,
        5,
        sent_s=arrival_s,
        end_s=end_s,
        queue_s=queue_s,
        code=code,
        ending=ending,
        input_tokens=10 if times else 0,
        times_s=array("d", times),
        counts=array("l", counts),
    )


def measured(*exchanges: Exchange) -> Run:
    return measure("vtc", LoadRecord(exchanges, 10.0, 0.0), COST, {})


def test_service_is_received_when_it_happens() -> None:
    """10 input and 1 output token at 3 s, 1 more at 4 s, 3 more at 6 s, at prices 1 and 2."""
    run = measured(exchange())
    assert run.series.service["a"] == (0.0, 0.0, 0.0, 12.0, 14.0, 14.0, 20.0)
    assert run.series.tokens[-1] == 15
    assert run.throughput_tokens_per_s == 15 / 6
    (record,) = run.records
    assert (record.input_tokens, record.output_tokens, record.dispatched_s, record.ttft_s) == (10, 5, 2.0, 3.0)
    assert exchange().tpot_s == 3 / 4


def test_every_ending_is_counted_where_it_belongs() -> None:
    run = measured(
        exchange(),
        exchange(ending=Ending.REJECTED, times=(), counts=(), code="tenant_queue_full"),
        exchange(ending=Ending.ABORTED, times=(3.0,), counts=(2,), code="client_timeout"),
        exchange(ending=Ending.FAILED, times=(), counts=(), queue_s=None, code="disconnected"),
    )
    assert [run.count(outcome) for outcome in (Outcome.FINISHED, Outcome.REJECTED, Outcome.ABORTED)] == [1, 1, 2]
    assert [record.reason for record in run.records] == ["", "tenant_queue_full", "client_timeout", "disconnected"]
    refused, cut, failed = run.records[1:]
    assert (refused.input_tokens, refused.output_tokens, refused.finish_s, refused.dispatched_s) == (9, 5, None, None)
    assert (cut.output_tokens, cut.finish_s) == (2, 6.0)
    assert (failed.dispatched_s, failed.finish_s) == (None, 6.0)
    assert (failed.input_tokens, failed.output_tokens) == (9, 5)  # asked for and never served: it still was demand


def test_without_the_header_the_turn_came_no_later_than_the_first_token() -> None:
    assert exchange(queue_s=None).dispatched_s == 3.0
    assert exchange(queue_s=99.0).dispatched_s == 6.0


def two_tenants(window_s: float = 10.0) -> Run:
    """Both wait over [1, window_s]; `a` receives 20 a second from 3 s on, `b` 10."""
    streams = []
    for tenant, start, per_second in (("a", 0.0, 10), ("b", 1.0, 5)):
        times = tuple(float(t) for t in range(3, 13))
        counts = tuple(per_second * (i + 1) for i in range(10))
        serving = exchange(tenant, start, times, counts, end_s=12.0)
        serving.input_tokens = 0
        waiting = exchange(tenant, start, (), (), Ending.ABORTED, window_s - start, end_s=12.0)
        last = exchange(tenant, 10.0, (), (), Ending.ABORTED, 0.0, end_s=12.0)
        streams += [serving, waiting, last]
    return measured(*streams)


def test_saturation_by_hand() -> None:
    run = two_tenants()
    seen = saturation(run, COST, {}, bound=60.0, tolerance=0.15)
    assert seen.window_s == (1.0, 10.0)
    assert seen.service == 8 * (20 + 10)
    assert seen.shares == pytest.approx({"a": 2 / 3, "b": 1 / 3})
    assert seen.needed == 60 / 0.3
    # Until the last arrival at 10 s: 7 * 30 served, half of it is a fair share.
    asked = {
        tenant: sum(r.input_tokens + 2 * r.output_tokens for r in run.records if r.tenant == tenant) for tenant in "ab"
    }
    assert seen.offers == pytest.approx({tenant: asked[tenant] / 105 for tenant in "ab"})


def test_both_figures_are_printed_and_both_must_hold() -> None:
    run = two_tenants()
    enough = saturation(run, COST, {}, bound=60.0, tolerance=0.15)
    weighty = saturation(run, COST, {"b": 0.2}, bound=60.0, tolerance=0.15)
    narrow = saturation(run, COST, {}, bound=60.0, tolerance=0.01)
    light = replace(enough, offers={"a": 1.9, "b": 1.19})
    assert (replace(enough, offers={"a": 1.9, "b": 1.2}).meaningful, light.meaningful) == (True, False)
    assert not narrow.meaningful
    assert weighty.needed == pytest.approx(0.2 * enough.needed)
    text = str(light)
    assert "service in it 240 (needed 200)" in text
    assert "a 1.90, b 1.19 (needed 1.2)" in text
    assert "NOT enough" in text
    assert "shares a 0.667, b 0.333" in text


def test_tenants_that_never_wait_together_are_said_so() -> None:
    seen = saturation(measured(exchange("a"), exchange("b", 5.0, (7.0,), (1,), end_s=7.0)), COST, {}, 10.0, 0.1)
    assert (seen.window_s, seen.service, seen.meaningful) == ((0.0, 0.0), 0.0, False)
    assert "never do all wait at once" in str(seen)


def test_a_live_comparison_carries_the_trust_of_its_shares() -> None:
    comparison = live_comparison("live", [two_tenants()], COST, {}, 60.0, settings={"model": "m"})
    assert comparison.settings["model"] == "m"
    assert "needed 1,000" in comparison.settings["shares under vtc"]
    assert set(comparison.to_json()) == {"workload", "seed", "bound", "runs"}


BOUND = 48.0  # 2U of the server below: two output prices on its 12 tokens


class FairServer:
    """Serves one request at a time, in the order of a production scheduler, at 10 ms a token or slower."""

    def __init__(self, policy: str) -> None:
        self.scheduler = Scheduler(parse_policy(policy), COST, WorkerRoom([Worker("w", slots=1, tokens=12)]))
        self.turns: dict[Ticket, asyncio.Event] = {}

    async def chat(self, request: web.Request) -> web.StreamResponse:
        wanted = (await request.json())["max_tokens"]
        ticket = Ticket(str(len(self.turns)), request.headers["Authorization"], 8, wanted)
        arrived = asyncio.get_running_loop().time()
        self.turns[ticket] = asyncio.Event()
        refusal = self.scheduler.submit(ticket, arrived)
        if refusal is not None:
            return web.json_response({"error": {"code": refusal.reason}}, status=429)
        self._next()
        try:
            await self.turns[ticket].wait()
            waited = asyncio.get_running_loop().time() - arrived
            return await self._stream(request, ticket, waited)
        except (asyncio.CancelledError, ConnectionError):
            self.scheduler.cancel(ticket)
            raise
        finally:
            self._next()

    def _next(self) -> None:
        while (grant := self.scheduler.pick()) is not None:
            self.turns[grant.ticket].set()

    async def _stream(self, request: web.Request, ticket: Ticket, waited: float) -> web.StreamResponse:
        response = web.StreamResponse(headers={"x-fairgate-queue-ms": f"{1000 * waited:.1f}"})
        await response.prepare(request)
        for k in range(1, ticket.max_tokens + 1):
            await asyncio.sleep(0.01)
            self.scheduler.charge(ticket, k)
            usage = {"prompt_tokens": 8, "completion_tokens": k}
            await response.write(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n")
        self.scheduler.finish(ticket)
        await response.write(b"data: [DONE]\n\n")
        return response


async def models(request: web.Request) -> web.Response:
    return web.json_response({"data": []})


async def loaded(policy: str) -> Run:
    """Two tenants at 30 and 90 requests a second against at most 25 a second, and no drain."""
    fair = FairServer(policy)
    app = web.Application()
    app.router.add_post("/v1/chat/completions", fair.chat)
    app.router.add_get("/v1/models", models)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server()
    try:
        target = Target(str(server.make_url("/")), {"a": "a", "b": "b"}, "m", drain_s=0.05)
        record = await run_load(target, steady_load({"a": 30.0, "b": 90.0}, 1.5, 8, 4))
    finally:
        await server.close()
    return measure(policy, record, COST, {})


async def test_policies_are_told_apart_over_http() -> None:
    """The server is never faster than 10 ms a token, so both tenants wait whatever the machine: VTC halves the
    service, FCFS follows the load, RPM turns requests away."""
    runs = {policy: await loaded(policy) for policy in ("vtc", "fcfs", "rpm:5")}
    done = {policy: [run.tenants[tenant].finished for tenant in "ab"] for policy, run in runs.items()}
    assert abs(done["vtc"][0] - done["vtc"][1]) <= 2
    assert done["fcfs"][0] <= sum(done["fcfs"]) / 4 + 1
    assert min(saturation(runs["vtc"], COST, {}, BOUND, 0.1).offers.values()) > 1.2
    assert runs["vtc"].service_gap_max <= BOUND
    assert runs["rpm:5"].count(Outcome.FINISHED) <= 10
    assert runs["rpm:5"].count(Outcome.REJECTED) >= 170
    assert {r.reason for r in runs["rpm:5"].records if r.outcome is Outcome.REJECTED} == {"rate_limit"}
