"""The figures of `fairgate bench shared` as Markdown, and what they were to show."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from statistics import mean, median

from fairgate.bench.http import HttpFound, Lap
from fairgate.bench.rounds import percentile, table
from fairgate.bench.shard_plan import Simulated
from fairgate.bench.shared import MOST_ADDED_MS, MOST_COMMANDS, MOST_P99_MS, SharedFound
from fairgate.bench.store import StoreFound
from fairgate.promises import Promise

LEAST_REQUESTS_PER_S = 25.0


def commands(lap: Lap) -> float:
    """Of clients, per request."""
    return lap.per_request(lap.store.commands)


def first_ms(part: float) -> Callable[[Lap], float]:
    return lambda lap: percentile(lap.first_ms, part)


def added_ms(found: HttpFound, part: float) -> float:
    """To the first byte, by sharing: median over rounds of the difference."""
    return median(found.differences(first_ms(part)))


def promises(bench: SharedFound) -> list[Promise]:
    """Commands are counted, so they are promised; what takes how long depends on the machine."""
    told = []
    for found in bench.http:
        sent = found.middle("shared", commands)
        text = f"{found.case.name}: {sent:.2f} commands per request"
        if found.middle("shared", lambda lap: lap.rate) < LEAST_REQUESTS_PER_S:
            told.append(
                Promise(f"{text} (no promise below {LEAST_REQUESTS_PER_S:g} requests/s: reports come by the clock)")
            )
        else:
            told.append(Promise(f"{text} (at most {MOST_COMMANDS:g})", sent <= MOST_COMMANDS))
    for found in bench.http:
        if found.case.rate and found.case.own:
            added = added_ms(found, 0.5)
            verdict = "reached" if added <= MOST_ADDED_MS else "NOT reached on this machine"
            told.append(
                Promise(f"{found.case.name}: {added:+.2f} ms at the median; target {MOST_ADDED_MS:g} ms {verdict}")
            )
    return told


def markdown(bench: SharedFound) -> str:
    parts = [
        _where(bench),
        "## Over HTTP: all that goes through",
        _saturation([found for found in bench.http if not found.case.rate and found.case.own]),
        "## Over HTTP: time to the first byte",
        _latency([found for found in bench.http if found.case.rate and found.case.own]),
        "## What the store hears, per request",
        _store_use(bench.http),
        "## The store alone",
        _store_alone([*bench.batches, *bench.reported]),
        "## Waiting tenants",
        _depths(bench.depths),
        "## Many pools over shards, simulated",
        _plans(bench),
    ]
    return "\n\n".join(parts) + "\n"


def _where(bench: SharedFound) -> str:
    before, after = bench.load_average
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {platform.system()}, Python {platform.python_version()}, "
        f"redis-py {version('redis')}, {bench.server}; load average {before:.1f} before, {after:.1f} after. "
        f"{bench.plan.rounds} rounds of {bench.plan.seconds:g} s, modes in turns; medians over the half of the rounds "
        f"in which other programs used the machine least, and these are the cores that they still used ('others')."
    )


def _saturation(all_found: Iterable[HttpFound]) -> str:
    figures: list[tuple[str, Callable[[Lap], float]]] = [
        ("requests/s", lambda lap: lap.rate),
        ("gateway us/request", lambda lap: lap.us(lap.cpu.gateways)),
        ("gateway cores", lambda lap: lap.cpu.gateways / lap.wall_s),
        ("store us/request", lambda lap: lap.us(lap.cpu.store)),
        ("engine us/request", lambda lap: lap.us(lap.cpu.engines)),
        ("client us/request", lambda lap: lap.us(lap.cpu.client)),
        ("others", lambda lap: lap.others),
    ]
    rows = []
    for found in all_found:
        for mode in found.laps:
            rows += [[f"{_gateways(found)}, {mode}", *(f"{found.middle(mode, figure):,.2f}" for _, figure in figures)]]
        ratios = [f"{found.ratio(figure):.2f}" if "store" not in name else "" for name, figure in figures[:-1]]
        rows += [[f"{_gateways(found)}, ratio", *ratios, ""]]
    return table(["", *(name for name, _ in figures)], rows)


def _gateways(found: HttpFound) -> str:
    number = found.case.gateways
    return f"{number} gateway{'s' * (number > 1)}"


def _latency(all_found: Iterable[HttpFound]) -> str:
    rows = []
    for found in all_found:
        for name, part in (("p50", 0.5), ("p99", 0.99)):
            own, shared = (found.middle(mode, first_ms(part)) for mode in ("own", "shared"))
            each = sorted(found.differences(first_ms(part)))
            spread = f"{each[0]:+.2f} to {each[-1]:+.2f}"
            queued = [f"{found.middle(mode, lambda lap: lap.queued_ms):.2f}" for mode in ("own", "shared")]
            noise = [
                f"{found.middle('shared', figure):.2f}" for figure in (lambda lap: lap.late_ms, lambda lap: lap.others)
            ]
            numbers = [f"{found.case.rate:,.0f}", name, f"{own:.2f}", f"{shared:.2f}", f"{median(each):+.2f}", spread]
            rows.append([_gateways(found), *numbers, *queued, *noise])
    titles = ["", "requests/s", "", "own, ms", "shared, ms", "added, ms", "over rounds"]
    return table([*titles, "mean queued, own", "mean queued, shared", "client late, p99", "others"], rows)


def _store_use(all_found: Iterable[HttpFound]) -> str:
    figures: list[tuple[str, Callable[[Lap], float]]] = [
        ("requests/s", lambda lap: lap.rate),
        ("commands", commands),
        ("calls inside functions", lambda lap: lap.per_request(lap.store.inside)),
        ("bytes in and out", lambda lap: lap.per_request(lap.store.bytes)),
        ("store us", lambda lap: lap.us(lap.cpu.store)),
    ]
    rows = [
        [f"{_gateways(found)}: {found.case.name}", *(f"{found.middle('shared', figure):,.1f}" for _, figure in figures)]
        for found in all_found
    ]
    return table(["", *(name for name, _ in figures)], rows)


def _store_alone(all_found: Iterable[StoreFound]) -> str:
    titles = ["", "us/request", "requests/s of a core", "by the clock", "busy", "us/call", "p99 us/call", "inspect us"]
    rows = []
    for found in all_found:
        times = [f"{found.call_us:,.0f}", f"{found.call_p99_us:,.0f}", f"{found.inspect_us:,.0f}"]
        rates = [f"{found.us:,.0f}", f"{found.capacity:,.0f}", f"{found.rate:,.0f}", f"{found.busy:.2f}"]
        rows.append([str(found.case), *rates, *times])
    return table(titles, rows)


def _depths(all_found: Sequence[StoreFound]) -> str:
    rows = [
        [f"{found.case.tenants:,}", f"{found.us:,.0f}", f"{found.us / all_found[0].us:.2f}", f"{found.inspect_us:,.0f}"]
        for found in all_found
    ]
    return table(["tenants that wait", "us/request", "ratio", "inspect us"], rows)


def _plans(bench: SharedFound) -> str:
    cost = bench.cost
    fitted = (
        f"A call costs {cost.call_us:.0f} us, a request {cost.request_us:.0f} us, a report of tokens "
        f"{cost.report_us:.0f} us of a shard; the 99th percentile of a call is {cost.spread:.1f} times its mean. "
        f"{bench.plan.pools} pools, each over 4 gateways, with 0.2 ms to the store and back; enough is what keeps the "
        f"99th percentile of the time to the answer of a submission at {MOST_P99_MS:g} ms or less."
    )
    titles = ["load of each pool", "placed", "shards", "busy, mean", "busy, most", "p50 ms", "p99 ms", "calls/s"]
    rows = [
        [name if not number else "", placed if not number else "", *_tried(one)]
        for name, evenly, tried in bench.plans
        for placed in ["evenly" if evenly else "by hash"]
        for number, one in enumerate(_telling(tried))
    ]
    return f"{fitted}\n\n{table(titles, rows)}\n\n{_single(bench)}"


def _telling(tried: Sequence[Simulated]) -> Sequence[Simulated]:
    """The last three: the one that is enough, and what comes before."""
    return tried[-3:]


def _tried(one: Simulated) -> list[str]:
    busy = [f"{mean(one.busy):.2f}", f"{max(one.busy):.2f}"]
    return [f"{one.shards}", *busy, f"{one.added_ms(0.5):.2f}", f"{one.added_ms(0.99):.1f}", f"{one.calls:,.0f}"]


def _single(bench: SharedFound) -> str:
    """A pool is on one shard: what that means for one pool."""
    rows = []
    for name, (load, found) in bench.largest.items():
        figures = [f"{load.rate:,.0f}", f"{load.running:,.0f}", f"{found.busy[0]:.2f}", f"{found.added_ms(0.99):.1f}"]
        rows.append([name, *figures])
    return table(["the most that one pool can have", "requests/s", "streams at once", "shard busy", "p99 ms"], rows)
