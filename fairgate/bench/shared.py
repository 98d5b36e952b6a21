"""`fairgate bench shared`: what one queue over many gateways costs, what a shard carries, and how many are needed.

Three parts: over HTTP (http.py), the store alone (store.py), and, from what that costs, a simulation of many
pools over shards (shard_plan).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fairgate.bench.http import HttpCase, HttpFound, measure_http
from fairgate.bench.shard_plan import CallCost, PoolLoad, Simulated, largest_pool, shards_needed
from fairgate.bench.store import StoreCase, StoreFound, measure_store
from fairgate.topology.stores import StoreServer, store_binary
from loadgen.progress import Progress, quiet

MOST_COMMANDS = 4.0  # per request
MOST_ADDED_MS = 1.0  # at the median, at half load
MOST_P99_MS = 5.0  # added, in the plan
POOLS = 100

BATCHES = tuple(
    StoreCase(size, alone, waiting)
    for waiting in (0, 10_000)
    for size, alone in ((1, True), (1, False), (4, False), (16, False))
)
REPORTED = (StoreCase(1, True, reports=20), StoreCase(16, reports=20))
DEPTHS = tuple(StoreCase(4, waiting=n, tenants=n) for n in (10, 1_000, 100_000))
LOADS = {
    "short answers: 500 requests/s of 50 ms": PoolLoad(rate=500, stream_s=0.05),
    "streams: 50 requests/s of 5 s": PoolLoad(rate=50, stream_s=5.0),
    "streams, reports every 100 ms": PoolLoad(rate=50, stream_s=5.0, flush_s=0.1),
}


@dataclass(frozen=True)
class SharedPlan:
    """`seconds` of each measurement, of which each mode or case has one in each of `rounds`. `pools` of the plan."""

    rounds: int = 10
    seconds: float = 1.5
    pools: int = POOLS


class ShardsTried(NamedTuple):
    """Shards that were tried for a load until they were enough, with the pools placed `evenly` or by hash."""

    name: str
    evenly: bool
    tried: Sequence[Simulated]


@dataclass(frozen=True)
class SharedFound:
    """What was found. `largest`: for each load, the most that one pool carries, since it is on one shard."""

    plan: SharedPlan
    server: str
    load_average: tuple[float, float]
    http: Sequence[HttpFound]
    batches: Sequence[StoreFound]
    reported: Sequence[StoreFound]
    depths: Sequence[StoreFound]
    cost: CallCost
    plans: Sequence[ShardsTried]
    largest: Mapping[str, tuple[PoolLoad, Simulated]]


def bench_shared(plan: SharedPlan, folder: Path, progress: Progress = quiet) -> SharedFound:
    """Raises ProcessError when a program does not come up or answers wrongly."""
    before = os.getloadavg()[0]
    http = measure_all_http(plan, folder, progress)
    with StoreServer(store_binary(), folder / "store-alone") as server:
        cases = (*BATCHES, *REPORTED, *DEPTHS)
        version = _version(server)
        found = measure_store(server, cases, max(1, plan.rounds // 2), plan.seconds / 2, progress)
    by_case = dict(zip(cases, found, strict=True))
    batches, reported, depths = ([by_case[case] for case in some] for some in (BATCHES, REPORTED, DEPTHS))
    cost = fit_cost([*(one for one in batches if not one.case.waiting), *reported])
    loads = (before, os.getloadavg()[0])
    plans = plan_shards(cost, plan.pools, progress)
    largest = {name: largest_pool(load, cost, MOST_P99_MS) for name, load in LOADS.items()}
    return SharedFound(plan, version, loads, http, batches, reported, depths, cost, plans, largest)


def _version(server: StoreServer) -> str:
    info = server.command("INFO", "server")
    return f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info['redis_version']}"


def measure_all_http(plan: SharedPlan, folder: Path, progress: Progress = quiet) -> list[HttpFound]:
    """One gateway, then two: as many requests as go through, then half as many; a queue; and long streams."""
    found: list[HttpFound] = []

    def measure(case: HttpCase) -> HttpFound:
        place = folder / f"case-{len(found)}"
        found.append(measure_http(case, place, plan.rounds, plan.seconds, progress))
        return found[-1]

    measure(HttpCase("few requests", rate=50.0))
    for gateways in (1, 2):
        full = measure(HttpCase(f"all that {gateways} can", gateways))
        measure(HttpCase(f"half of that, {gateways}", gateways, rate=full.middle("shared", lambda lap: lap.rate) / 2))
    measure(HttpCase("8 slots, 56 wait", 2, connections=64, slots=8, own=False))
    for streams in (1, 64):
        measure(HttpCase(f"{streams} streams of 1 s", connections=streams, output_tokens=50, step_s=0.02, own=False))
    return found


def fit_cost(found: Sequence[StoreFound]) -> CallCost:
    """Least squares over cases without a queue: a call, a request and a report each cost the same in all of them.
    Relative errors count, so that large cases do not decide alone."""
    rows = [[one.case.calls_per_request, 1.0, one.case.reports] for one in found]
    scaled = np.array([[value / one.us for value in row] for one, row in zip(found, rows, strict=True)])
    call, request, report = np.linalg.lstsq(scaled, np.ones(len(found)))[0]
    spread = max(one.call_p99_us / one.call_us for one in found if one.case.alone)
    return CallCost(max(0.0, float(call)), max(0.0, float(request)), max(0.0, float(report)), spread)


def plan_shards(cost: CallCost, pools: int, progress: Progress = quiet) -> list[ShardsTried]:
    """Every load over more and more shards, with the pools where their hash slots are and evenly."""
    plans = []
    for number, (name, load) in enumerate(LOADS.items()):
        for evenly in (False, True):
            progress(f"simulated: {pools} pools of {name}", number / len(LOADS))
            plans.append(ShardsTried(name, evenly, shards_needed(load, cost, pools, MOST_P99_MS, evenly=evenly)))
    return plans
