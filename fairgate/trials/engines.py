"""A load over gateways in front of mock engines, and what the engines say of it: their room, their clock, the bound."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from fairgate.promises import Promise
from fairgate.topology.cpu_time import CpuMeter
from fairgate.topology.deployment import Deployment
from fairgate.topology.plan import MockEngine, Plan
from fairgate.topology.settings import key_of
from fairness import Weighted
from loadgen.client.open_loop import run_load
from loadgen.client.record import LoadRecord
from loadgen.client.target import Target
from loadgen.client.wire import COMPLETIONS
from loadgen.judge.engines import EngineLog, EngineRecord, read_service_logs
from loadgen.progress import Progress
from loadgen.workloads.prompts import WordPrompts
from loadgen.workloads.workload import Request

COST = Weighted()
LEAD_S = 2.0  # until the queues are full


def run_over(
    plan: Plan, entries: Mapping[str, Sequence[int]], load: Sequence[Request], progress: Progress
) -> tuple[LoadRecord, EngineRecord, str]:
    """What clients saw, what engines served, and the processor time of it all in words. `entries` as in `target_of`.

    Raises ProcessError when a program does not come up, TargetError when it refuses the load.
    """
    cpu = CpuMeter()
    with Deployment(plan, lambda what: progress(what, 0.0)) as deployment:
        target = target_of(deployment.start(), entries, drain_s=0.1)
        record = asyncio.run(run_load(target, load, prompts=WordPrompts(), progress=progress))
    return record, record_of(plan), str(cpu)


def target_of(deployment: Deployment, entries: Mapping[str, Sequence[int]], drain_s: float) -> Target:
    """Tenants, each entering through the gateways with these numbers, in turn."""
    urls = deployment.gateway_urls
    doors = {tenant: [urls[number] for number in numbers] for tenant, numbers in entries.items()}
    keys = {tenant: key_of(tenant) for tenant in entries}
    model = deployment.plan.engine.served_name
    return Target(urls[0], keys, model, drain_s=drain_s, entries=doors, path=COMPLETIONS)


def record_of(plan: Plan) -> EngineRecord:
    """What mock engines have done so far, over all their starts."""
    return read_service_logs(*map(plan.service_log, plan.workers))


def bound_of(engine: MockEngine, weights: Mapping[str, float], engines: int = 1) -> float:
    """2U / min(w) of all engines together, in service units."""
    room = engine.kv_tokens
    return 2 * COST.most_rise(engines * room, room, room) / min(weights.values())


def room_kept(engines: EngineRecord, *, promised: bool = True) -> list[Promise]:
    """That nothing ever waited inside an engine, by the engines' own account. Controls do not promise it."""
    found = []
    for path, engine in engines.engines.items():
        peaks = engine.peaks
        kept = peaks.in_flight <= engine.slots and peaks.tokens_reserved <= engine.kv_tokens
        text = (
            f"{_name(path)} had at most {peaks.in_flight} of {engine.slots} slots and "
            f"{peaks.tokens_reserved} of {engine.kv_tokens} tokens to serve at once"
        )
        found.append(Promise(text, kept if promised else None))
    return found


def pace(engines: EngineRecord, start: float, end: float) -> str:
    """Whether the engines kept to their clock, and how busy they were, over [start, end) of Unix time."""
    outputs: dict[Path, list[float]] = {path: [] for path in engines.engines}
    for line in engines.served:
        if line.event == "output" and start <= line.t < end:
            outputs[line.engine].append(line.t)
    return "; ".join(
        f"{_name(path)} {_pace(engine, outputs[path], end - start)}" for path, engine in engines.engines.items()
    )


def _pace(engine: EngineLog, outputs: Sequence[float], seconds: float) -> str:
    """`outputs`: when each token came out of it."""
    waits = sorted(after - before for before, after in pairwise(sorted(set(outputs))))
    if not waits:
        return "was idle"
    busy = len(outputs) * engine.step_s / (seconds * engine.slots)
    typical, late = (1e3 * waits[int(part * (len(waits) - 1))] for part in (0.5, 0.99))
    clock = f"steps every {typical:.1f} ms (p99 {late:.1f}, due {1e3 * engine.step_s:.1f})"
    return f"had {busy:.2f} of its slots busy, {clock}"


def _name(log: Path) -> str:
    return log.name.partition(".")[0]
