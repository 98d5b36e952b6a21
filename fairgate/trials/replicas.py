"""`fairgate replicas`: do several gateways together give one fair share? Live, over HTTP, judged by the engines' logs.

    shares   two tenants 4:1, one of whom enters through one replica only; control: state per replica
    bound    a trace of many clients through replicas of uneven load; control: FCFS

The tenant that enters through one replica is the one with the larger weight: a gateway that knows only its own queue
cannot give it more than the 1/n of the engines that it has itself, whatever its weight.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log2
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fairgate.errors import ProcessError
from fairgate.topology.fleet import CpuMeter, Fleet, FleetPlan
from fairgate.trials.promises import Promise, tell
from fairness import Weighted
from loadgen.client.live import Progress, quiet, run_load
from loadgen.judge.measure import Saturation, saturation, steady_load
from loadgen.judge.results import Outcome, Run
from loadgen.judge.service_log import EngineLog, EngineRecord, judge
from loadgen.workloads.catalogue import Workload
from loadgen.workloads.prompts import WordPrompts
from loadgen.workloads.traces import Request

COST = Weighted()
LIGHT, HEAVY = "light", "heavy"
SLOTS = 4
INPUT_TOKENS, OUTPUT_TOKENS = 8, 8
OFFER = 1.35  # the light tenant offers so many times its fair share, the heavy one so many times the whole
MAX_WAITING = 150  # of a tenant; what comes on top is refused, so that memory stays bounded and somebody always waits
LEAD_S = 2.0  # until the queues are full
CLEARLY = 5  # times the tolerance by which the control has to miss

TRACE_ENGINES, TRACE_SLOTS, TRACE_KV_TOKENS, TRACE_STEP_S = 2, 8, 2100, 0.01
PROMISE_BOUND = ("vtc",)
BREAKS_BOUND = ("fcfs",)
MUCH_SERVED = 4.0  # times the bound


@dataclass(frozen=True)
class SharesPlan:
    """`weights` of the light tenant, who enters through the first replica only, and of the heavy one. The engine has
    the clock `step_s`; `seconds` is the length of the window that is judged."""

    replicas: int
    seconds: float
    weights: tuple[float, float] = (4.0, 1.0)
    shared: bool = True
    tolerance: float = 0.01
    step_s: float = 0.02

    @property
    def fair(self) -> float:
        """The light tenant's fair share."""
        return self.weights[0] / sum(self.weights)

    def fleet(self, folder: Path) -> FleetPlan:
        queue = {"max_requests": 10_000, "max_requests_per_tenant": MAX_WAITING, "timeout_s": 3600.0}
        return FleetPlan(
            folder,
            dict(zip((LIGHT, HEAVY), self.weights, strict=True)),
            self.replicas,
            slots=SLOTS,
            kv_tokens=SLOTS * (INPUT_TOKENS + OUTPUT_TOKENS),
            step_s=self.step_s,
            shared=self.shared,
            pool={"queue": queue},
        )

    def load(self) -> tuple[Request, ...]:
        most = SLOTS / (OUTPUT_TOKENS * self.step_s)  # requests a second
        rates = {LIGHT: OFFER * self.fair * most, HEAVY: OFFER * most}
        return steady_load(rates, self.seconds + LEAD_S, INPUT_TOKENS, OUTPUT_TOKENS)


@dataclass(frozen=True)
class SharesFound:
    plan: SharesPlan
    seen: Saturation
    engines: EngineRecord
    pace: str
    cpu: str

    @property
    def share(self) -> float:
        return self.seen.shares[LIGHT]

    @property
    def off(self) -> float:
        return abs(self.share - self.plan.fair)

    def promises(self) -> list[Promise]:
        plan, seen = self.plan, self.seen
        kind = "one queue" if plan.shared else "control, a queue per replica"
        what = f"{plan.replicas} replicas, {kind}: the light tenant has {self.share:.4f} of {plan.fair:.2f}"
        if plan.shared:
            shares = [
                Promise(f"{what}, off by {self.off:.4f} (at most {plan.tolerance:g})", self.off <= plan.tolerance),
                Promise(f"saturated: {seen}", seen.meaningful and self._window_s >= 0.95 * plan.seconds),
            ]
        else:
            wanted = CLEARLY * plan.tolerance
            shares = [Promise(f"{what}, off by {self.off:.4f} (expected more than {wanted:g})", self.off > wanted)]
        return [*shares, *room_kept(self.engines, promised=plan.shared), Promise(f"{self.pace}; {self.cpu}")]

    @property
    def _window_s(self) -> float:
        start, end = self.seen.window_s
        return end - start


def measure_shares(plan: SharesPlan, folder: Path, progress: Progress = quiet) -> SharesFound:
    """Raises ProcessError when a program does not come up, TargetError when it refuses the load."""
    cpu, fleet_plan = CpuMeter(), plan.fleet(folder)
    everywhere = range(plan.replicas)
    with Fleet(fleet_plan, lambda what: progress(what, 0.0)) as fleet:
        target = fleet.target({LIGHT: [0], HEAVY: everywhere}, drain_s=0.1)
        load = asyncio.run(run_load(target, plan.load(), prompts=WordPrompts(), progress=progress))
    engines = fleet.record()
    run = judge("vtc", load, engines, COST, fleet_plan.weights)
    seen = saturation(run, COST, fleet_plan.weights, bound_of(fleet_plan), plan.tolerance)
    start, end = (load.started_at + moment for moment in seen.window_s)
    return SharesFound(plan, seen, engines, pace(engines, start, end), str(cpu))


def run_shares(plans: Sequence[SharesPlan], folder: Path, console: Console, progress: Progress) -> bool:
    """Run each, print a table and what was found. Returns whether all promises were kept."""
    found = [
        measure_shares(plan, folder / f"shares-{number}", _within(progress, _title(plan), number, len(plans)))
        for number, plan in enumerate(plans)
    ]
    table = Table("replicas", "queue", "light", "heavy", "fair", "off by", box=None, pad_edge=False)
    for one in found:
        numbers = (one.share, one.seen.shares[HEAVY], one.plan.fair, one.off)
        queue = "shared" if one.plan.shared else "per replica"
        table.add_row(str(one.plan.replicas), queue, *(f"{number:.4f}" for number in numbers))
    console.print(table)
    return tell((promise for one in found for promise in one.promises()), console)


def _title(plan: SharesPlan) -> str:
    return f"{plan.replicas} replicas, {'shared' if plan.shared else 'control'}"


@dataclass(frozen=True)
class BoundPlan:
    """`workload` as it is to be sent, under a policy. `flush_s`: how late output tokens may be charged."""

    workload: Workload
    policy: str
    replicas: int
    engines: int = TRACE_ENGINES
    slots: int = TRACE_SLOTS
    kv_tokens: int = TRACE_KV_TOKENS
    step_s: float = TRACE_STEP_S
    predict: str = "max_tokens"
    flush_s: float = 0.02

    def load(self) -> tuple[Request, ...]:
        """For the one model that there is."""
        return tuple(request._replace(model="") for request in self.workload.requests)

    def fleet(self, folder: Path) -> FleetPlan:
        return FleetPlan(
            folder,
            dict.fromkeys(self.workload.tenants, 1.0),
            self.replicas,
            engines=self.engines,
            slots=self.slots,
            kv_tokens=self.kv_tokens,
            step_s=self.step_s,
            pool={"policy": self.policy, "predict": self.predict},
            store={"flush_s": self.flush_s},
        )


@dataclass(frozen=True)
class BoundFound:
    plan: BoundPlan
    run: Run
    bound: float
    engines: EngineRecord
    pace: str
    cpu: str

    def promises(self) -> list[Promise]:
        policy, gap = self.plan.policy, self.run.service_gap_max
        said = (
            f"{policy}: the largest gap is {gap:,.0f}, {gap / self.bound:.2f} of the bound 2U/min w = {self.bound:,.0f}"
        )
        if policy in PROMISE_BOUND:
            verdict = Promise(said, gap <= self.bound)
        elif policy in BREAKS_BOUND:
            verdict = Promise(f"{said}; as the control it has to pass it", gap > self.bound)
        else:
            verdict = Promise(said)
        return [verdict, self._enough(), *room_kept(self.engines), Promise(f"{policy}: {self.pace}; {self.cpu}")]

    def _enough(self) -> Promise:
        """Where little is served, nothing can be far apart."""
        served = sum(tenant.service for tenant in self.run.tenants.values())
        text = f"{self.plan.policy}: {served:,.0f} service units served, {served / self.bound:.1f} times the bound"
        return Promise(f"{text} (at least {MUCH_SERVED:g})", served >= MUCH_SERVED * self.bound)


def measure_bound(plan: BoundPlan, folder: Path, progress: Progress = quiet) -> BoundFound:
    """Raises ProcessError, and TargetError, as above."""
    cpu, fleet_plan = CpuMeter(), plan.fleet(folder)
    if too_large := [r for r in plan.workload.requests if r.input_tokens + r.output_tokens > fleet_plan.kv_tokens]:
        largest = max(r.input_tokens + r.output_tokens for r in too_large)
        raise ProcessError(
            f"a request of {plan.workload.name} has {largest} tokens; expected at most {fleet_plan.kv_tokens}"
        )
    with Fleet(fleet_plan, lambda what: progress(what, 0.0)) as fleet:
        target = fleet.target(skewed_entries(plan.workload.tenants, plan.replicas), drain_s=0.1)
        load = asyncio.run(run_load(target, plan.load(), prompts=WordPrompts(), progress=progress))
    engines = fleet.record()
    run = judge(plan.policy, load, engines, COST, fleet_plan.weights)
    kept_pace = pace(engines, load.started_at + LEAD_S, load.started_at + run.last_arrival_s)
    return BoundFound(plan, run, bound_of(fleet_plan), engines, kept_pace, str(cpu))


def run_bound(plans: Sequence[BoundPlan], folder: Path, console: Console, progress: Progress) -> bool:
    """Run each, print a table and what was found. Returns whether all promises were kept."""
    found = [
        measure_bound(plan, folder / f"bound-{plan.policy}", _within(progress, plan.policy, number, len(plans)))
        for number, plan in enumerate(plans)
    ]
    titles = ("policy", "largest gap", "bound", "gap / bound", "tokens/s", "finished", "cut at the end")
    table = Table(*titles, box=None, pad_edge=False)
    for one in found:
        run = one.run
        numbers = (run.service_gap_max, one.bound)
        counts = (run.count(Outcome.FINISHED), run.count(Outcome.ABORTED))
        ratio = f"{run.service_gap_max / one.bound:.2f}"
        shown = (*(f"{number:,.0f}" for number in numbers), ratio, f"{run.throughput_tokens_per_s:,.0f}")
        table.add_row(one.plan.policy, *shown, *(f"{count:,}" for count in counts))
    console.print(table)
    return tell((promise for one in found for promise in one.promises()), console)


def skewed_entries(tenants: Iterable[str], replicas: int) -> dict[str, list[int]]:
    """Half of the tenants enter through the first replica, a quarter through the second, and so on."""
    names = sorted(tenants)
    return {name: [min(replicas - 1, int(-log2(1 - i / len(names))))] for i, name in enumerate(names)}


def bound_of(plan: FleetPlan) -> float:
    """2U / min(w) of all engines together, in service units."""
    tokens = plan.engines * plan.kv_tokens
    return 2 * COST.most_rise(tokens, plan.kv_tokens, plan.kv_tokens) / min(plan.weights.values())


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


def _within(progress: Progress, title: str, number: int, count: int) -> Callable[[str, float], None]:
    return lambda what, part: progress(f"{title}: {what}", (number + part) / count)
