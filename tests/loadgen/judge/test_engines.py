"""What engines' logs add up to: by hand on made-up logs, on a real gateway, and against brute force."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairness import Profiled, Weighted
from gateway.app import build
from gateway.config.load import parse_config
from loadgen.client.open_loop import run_load
from loadgen.client.record import Ending, Exchange, LoadRecord
from loadgen.client.target import Target
from loadgen.judge.engines import read_service_logs
from loadgen.judge.live import judge
from loadgen.judge.metrics import waiting
from loadgen.judge.saturation import saturation
from loadgen.mock.engine import EngineSettings, Event, Generation
from loadgen.mock.log import ServiceLogWriter
from loadgen.mock.server import MockServer
from loadgen.service_log import Peaks, ServiceLogError
from loadgen.workloads.prompts import WordPrompts
from loadgen.workloads.workload import Request

COST = Weighted()
START = {"t": 90.0, "event": "start", "model": "m", "slots": 2, "kv_tokens": 64, "step_s": 0.02}


def work(t: float, event: str, tenant: str, tokens: int, name: str = "r.1") -> dict[str, Any]:
    return {"t": t, "event": event, "tenant": tenant, "id": name, "tokens": tokens}


def write(path: Path, *lines: dict[str, Any] | bytes, start: dict[str, Any] = START) -> Path:
    raw = [line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in (start, *lines)]
    path.write_bytes(b"".join(raw))
    return path


def load(*exchanges: Exchange) -> LoadRecord:
    """A run whose second 0 is Unix time 100."""
    return LoadRecord(exchanges, 20.0, 0.0, 100.0)


def request(tenant: str, arrival_s: float, dispatched_s: float, name: str = "r.1") -> Exchange:
    """The client never got a token: nothing of its own view may count as service."""
    return Exchange(
        tenant,
        "m",
        arrival_s,
        10,
        5,
        sent_s=arrival_s,
        end_s=19.0,
        queue_s=dispatched_s - arrival_s,
        ending=Ending.FINISHED,
        request_id=name,
    )


# -- one log and many ----------------------------------------------------------------------------------------------


def test_what_a_writer_wrote_is_read_back(tmp_path: Path) -> None:
    odd = Generation('r."1\\-0', "acme/søk", 7, 2)
    with ServiceLogWriter(tmp_path / "new" / "e.log", EngineSettings(3, 64, 0.01), 1.0) as writer:
        writer.write(2.0, [Event("input", odd, 7), Event("output", odd, 1)], Peaks(1, 2, 8, 9))
        writer.write(3.0, [])
        writer.write(4.0, [Event("end", odd, 1)], Peaks(3, 1, 1, 1))
    found = read_service_logs(tmp_path / "new" / "e.log")
    (engine,) = found.engines.values()
    assert (engine.slots, engine.kv_tokens, engine.step_s, engine.starts) == (3, 64, 0.01, 1)
    assert engine.peaks == Peaks(3, 2, 8, 9)
    assert [(s.t, s.event, s.tenant, s.id, s.tokens) for s in found.served] == [
        (2.0, "input", "acme/søk", odd.id, 7),
        (2.0, "output", "acme/søk", odd.id, 1),
        (4.0, "end", "acme/søk", odd.id, 1),
    ]


def test_service_and_shares_over_a_window_by_any_cost(tmp_path: Path) -> None:
    one = write(tmp_path / "1", work(1.0, "input", "a", 10), work(2.0, "output", "a", 1), work(3.0, "output", "a", 1))
    two = write(tmp_path / "2", work(1.5, "input", "b", 4, "r.2"), work(2.0, "output", "b", 1, "r.2"))
    found = read_service_logs(one, two)
    assert [line.t for line in found.served] == [1.0, 1.5, 2.0, 2.0, 3.0]
    assert found.service(COST) == {"a": 14.0, "b": 6.0}
    assert found.service(COST, 2.0, 3.0) == {"a": 2.0, "b": 2.0}  # half open
    assert found.shares(COST, 1.0, 2.0) == {"a": 10 / 14, "b": 4 / 14}
    assert found.shares(COST, 5.0) == {"a": 0.0, "b": 0.0}
    curved = Profiled()
    assert found.service(curved)["a"] == pytest.approx(curved.service(10, 2))
    assert found.service(curved, 3.0)["a"] == pytest.approx(curved.service(10, 2) - curved.service(10, 1))


def test_attempts_of_a_request_are_kept_apart_and_counted_together(tmp_path: Path) -> None:
    """Cut on one engine after a token, then served by another, under the ids that a gateway makes of the client's."""
    one = write(tmp_path / "1", work(1, "input", "a", 10, "r.1-7-0"), work(2, "output", "a", 1, "r.1-7-0"))
    again = [
        work(4, "input", "a", 10, "r.1-7-1"),
        work(5, "output", "a", 1, "r.1-7-1"),
        work(6, "end", "a", 1, "r.1-7-1"),
    ]
    two = write(tmp_path / "2", work(3, "abort", "a", 0, "r.1-7-0"), *again, work(7, "input", "a", 9, "r.10-8-0"))
    found = read_service_logs(one, two)
    done = found.requests()
    assert set(done) == {"r.1", "r.10"}
    assert (done["r.1"].inputs, done["r.1"].input_tokens, done["r.1"].output_tokens) == (2, 20, 2)
    assert (done["r.1"].ends, done["r.1"].aborts) == (1, 1)
    assert found.service(COST) == {"a": 2 * 12.0 + 9}


@pytest.mark.parametrize("torn", [b'{"t": 3.0, "event": "outp', b'{"t": 3.0}', b"\x00\x00"])
def test_a_line_that_a_kill_tore_is_left_out(tmp_path: Path, torn: bytes) -> None:
    line = work(2.0, "output", "a", 1)
    assert len(read_service_logs(write(tmp_path / "1", line, torn)).served) == 1
    restarted = write(tmp_path / "2", line, torn + b"\n" if torn[-1:] != b"}" else b"{\n", START, line)
    found = read_service_logs(restarted)
    assert (len(found.served), found.engines[restarted].starts) == (2, 2)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([b"{torn\n", work(2.0, "output", "a", 1)], "line 2: .*torn.* expected a JSON object"),
        ([b"[1]\n", work(2.0, "output", "a", 1)], r"line 2: .*\[1\]"),
        ([{"t": 1.0, "event": "lunch"}], "line 2: event 'lunch'; expected start, peak, arrival, input"),
        ([{"t": 1.0, "event": "input", "tenant": "a", "id": "1"}], "line 2: 'tokens'"),
        ([{"t": 1.0, "event": "peak", "height": 1}], "line 2: .*height"),
        ([{"t": "noon", "event": "peak"}], "line 2: .*noon"),
    ],
)
def test_a_malformed_log_is_refused_by_line(tmp_path: Path, lines: list[Any], said: str) -> None:
    with pytest.raises(ServiceLogError, match=said):
        read_service_logs(write(tmp_path / "1", *lines))


def test_a_log_without_a_start_or_none_at_all(tmp_path: Path) -> None:
    with pytest.raises(ServiceLogError, match="'output' before any start"):
        read_service_logs(write(tmp_path / "1", start=work(1.0, "output", "a", 1)))
    with pytest.raises(ServiceLogError, match="none: cannot be read"):
        read_service_logs(tmp_path / "none")


# -- the judgement -------------------------------------------------------------------------------------------------


def test_the_engines_decide_what_was_served_and_the_clients_when_they_waited(tmp_path: Path) -> None:
    """Both wait over [2, 8). In it a gets 10 + 2 and b gets 2 of weight 2; what a got before counts for nothing, and
    neither does what the engine did before the run began."""
    log = write(
        tmp_path / "1",
        work(99.0, "input", "a", 1000, "old"),
        work(101.0, "input", "a", 500, "r.0"),
        work(103.0, "input", "a", 10, "r.1"),
        work(104.0, "output", "a", 1, "r.1"),
        work(105.0, "output", "b", 1, "r.2"),
        work(109.0, "input", "a", 300, "r.3"),
    )
    run = judge("vtc", load(request("a", 0.0, 8.0), request("b", 2.0, 9.0)), read_service_logs(log), COST, {"b": 2.0})
    assert run.service_gap_max == 0.0  # measured until the last arrival, at 2 s
    assert max(run.series.gap) == 12.0
    assert run.series.gap[:4] == (0.0, 0.0, 0.0, 10.0)
    assert run.series.service == {
        "a": (0, 500, 500, 510, 512, 512, 512, 512, 512, *[812] * 11),
        "b": (*[0] * 5, *[2] * 15),
    }


def test_a_request_waits_only_while_it_did_for_certain(tmp_path: Path) -> None:
    """In the queue for 5 s between 1 s, when it was sent, and 8 s, when an engine got it: so from 3 to 6 s at least.
    One that came to engines twice, or whose time in the queue is not known, tells nothing."""
    arrivals = [work(108.0, "arrival", "a", 10, "r.1-4-1"), work(104.0, "arrival", "b", 10, "r.3-6-1")]
    twice = [work(t, "arrival", "b", 10, f"r.2-5-{t}") for t in (104.0, 106.0)]
    found = read_service_logs(write(tmp_path / "1", *arrivals, *twice))
    unknown = request("b", 1.0, 2.0, "r.3")
    unknown.queue_s = None
    lost = request("c", 1.0, 2.0, "r.4")
    lost.queue_s, lost.sent_s = None, 1.5
    sent = [request("a", 1.0, 6.0), request("b", 1.0, 5.0, "r.2"), unknown, lost]
    run = judge("vtc", load(*sent), found, COST, {})
    assert [waiting(run.records, tenant) for tenant in "abc"] == [[(3.0, 6.0)], [], [(1.5, 19.0)]]


def test_whether_shares_mean_anything_is_said(tmp_path: Path) -> None:
    """Two tenants wait over [0, 10) and are given 30 and 10 units; each alone asks for twice its fair share."""
    lines = [work(100.5 + i, "input", "a" if i % 4 else "b", 4, f"r.{i}") for i in range(10)]
    waits = [request(tenant, float(at), 10.0) for tenant in "ab" for at in (0, 10)]
    run = judge("vtc", load(*waits), read_service_logs(write(tmp_path / "1", *lines)), COST, {})
    found = saturation(run, COST, {}, bound=2.0, tolerance=0.05)
    assert found.window_s == (0.0, 10.0)
    assert found.shares == {"a": 0.7, "b": 0.3}
    assert (found.service, found.needed) == (40.0, 20.0)
    assert found.offers == {"a": 2.0, "b": 2.0}
    assert found.meaningful


def test_strangers_in_the_log_are_named(tmp_path: Path) -> None:
    found = read_service_logs(write(tmp_path / "1", work(101.0, "input", "zoe", 1)))
    with pytest.raises(ServiceLogError, match="'zoe', who sent nothing"):
        judge("vtc", load(request("a", 0.0, 1.0)), found, COST, {})
    before = read_service_logs(write(tmp_path / "2", work(99.0, "input", "zoe", 1)))
    assert judge("vtc", load(request("a", 0.0, 1.0)), before, COST, {}).series.service == {"a": (0.0,) * 20}


# -- on a real gateway ---------------------------------------------------------------------------------------------

BURST = 40


async def backlog(policy: str, folder: Path) -> tuple[float, float]:
    """Tenant a queues many, then b does, before the engine takes its first step. The gap and 2U / min w."""
    engine = MockServer(EngineSettings(slots=4, kv_tokens=64, step_s=0.01), folder / f"{policy}.log")
    everyone_waits = asyncio.Event()
    step = engine.engine.step
    engine.engine.step = lambda now: step(now) if everyone_waits.is_set() else []  # type: ignore[method-assign]
    await engine.start()
    gateway = build(parse_config(_config(policy, engine.url)))
    await gateway.start()
    try:
        url = f"http://127.0.0.1:{gateway.port}"
        await _until(url + "/readyz", lambda page: True)
        target = Target(url, {"a": "key-a", "b": "key-b"}, "mock", path="/v1/completions")
        arrivals = [Request(i * 0.005, "ab"[i >= BURST], 8, 8) for i in range(2 * BURST)]
        loading = asyncio.create_task(run_load(target, arrivals, prompts=WordPrompts()))
        await _until(url + "/metrics", lambda page: _waiting(page) == 2 * BURST - 4)
        everyone_waits.set()
        record = await loading
    finally:
        await gateway.close()
        await engine.close()
    assert record.endings()[Ending.FINISHED] == 2 * BURST
    run = judge(policy, record, read_service_logs(folder / f"{policy}.log"), COST, {})
    return max(run.series.gap), 2 * COST.most_rise(64, 64, 64)


def _config(policy: str, engine: str) -> dict[str, Any]:
    return {
        "listen": {"port": 0},
        "pools": {
            "main": {"models": ["mock"], "workers": [{"url": engine}], "policy": policy, "predict": "max_tokens"}
        },
        "tenants": [{"id": t, "keys_sha256": [sha256(f"key-{t}".encode()).hexdigest()]} for t in "ab"],
        "health": {"interval_s": 0.05},
    }


async def _until(url: str, reached: Callable[[str], bool]) -> None:
    async with asyncio.timeout(30), aiohttp.ClientSession() as session:
        while True:
            async with session.get(url) as response:
                if response.status == 200 and reached(await response.text()):
                    return
            await asyncio.sleep(0.005)


def _waiting(page: str) -> float:
    return sum(float(n) for n in re.findall(r"^fairgate_queue_requests\{.*\} (\S+)$", page, re.MULTILINE))


async def test_the_bound_holds_under_vtc_and_breaks_under_fcfs(tmp_path: Path) -> None:
    """FCFS is the control: it serves all of the first burst before any of the second."""
    gap, bound = await backlog("vtc", tmp_path)
    assert 0 < gap <= bound
    gap, bound = await backlog("fcfs", tmp_path)
    assert gap > 2 * bound


# -- against brute force -------------------------------------------------------------------------------------------

Lines = Sequence[tuple[int, str, int]]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from("abc"), st.integers(1, 9)), max_size=25),
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.integers(1, 6)), min_size=1, max_size=8),
)
def test_the_gap_is_that_of_brute_force(
    tmp_path_factory: pytest.TempPathFactory, lines: Lines, waits: Sequence[tuple[str, int, int]]
) -> None:
    """Every pair and every interval between half seconds in which both wait, by definition."""
    weights = {"a": 1.0, "b": 2.0, "c": 4.0}
    served = [work(100.0 + t, "input", tenant, n, f"r.{i}") for i, (t, tenant, n) in enumerate(lines)]
    log = read_service_logs(write(tmp_path_factory.getbasetemp() / "gap.log", *served))
    everyone = [request(tenant, 0.0, 0.0) for tenant in "abc"]
    exchanges = [request(tenant, start + 0.5, start + length + 0.5) for tenant, start, length in waits]
    run = judge("vtc", load(*everyone, *exchanges), log, COST, weights)
    assert max(run.series.gap) == pytest.approx(_brute_force(lines, waits, weights))


def _brute_force(lines: Lines, waits: Sequence[tuple[str, int, int]], weights: dict[str, float]) -> float:
    def waiting_throughout(tenant: str, start: int, end: int) -> bool:
        return all(any(w == tenant and s <= at < s + n for w, s, n in waits) for at in range(start, end))

    def received(tenant: str, start: int, end: int) -> float:
        return sum(n for t, who, n in lines if who == tenant and start < t <= end) / weights[tenant]

    return max(
        (
            abs(received(f, start, end) - received(g, start, end))
            for f, g in combinations("abc", 2)
            for start in range(16)
            for end in range(start + 1, 17)
            if waiting_throughout(f, start, end) and waiting_throughout(g, start, end)
        ),
        default=0.0,
    )
