"""`fairgate replicas bound`: does the bound on the gap in service hold over several gateways? Live, judged by the
engines' logs.

A trace of many clients through replicas of uneven load; the control is FCFS.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log2
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fairgate.errors import ProcessError
from fairgate.promises import Promise, tell, within
from fairgate.topology.plan import MockEngine, Plan, mock_plan
from fairgate.trials.engines import COST, LEAD_S, bound_of, pace, room_kept, run_over
from loadgen.judge.engines import EngineRecord
from loadgen.judge.live import judge
from loadgen.judge.results import Outcome, Run
from loadgen.progress import Progress, quiet
from loadgen.workloads.workload import Request, Workload

ENGINES = 2
ENGINE = MockEngine(slots=8, kv_tokens=2100, step_s=0.01)
PROMISE_BOUND = ("vtc",)
BREAKS_BOUND = ("fcfs",)
NOTHING_DIES = {"timeout_s": 10.0, "lease_s": 20.0}
"""Of the store: a machine that is busy for a second must not look like one whose store is gone."""
MUCH_SERVED = 4.0  # times the bound


@dataclass(frozen=True)
class BoundPlan:
    """`workload` as it is to be sent, under a policy. `flush_s`: how late output tokens may be charged."""

    workload: Workload
    policy: str
    replicas: int
    engines: int = ENGINES
    engine: MockEngine = ENGINE
    predict: str = "max_tokens"
    flush_s: float = 0.02

    def load(self) -> tuple[Request, ...]:
        """For the one model that there is."""
        return tuple(request._replace(model="") for request in self.workload.requests)

    @property
    def weight_of(self) -> dict[str, float]:
        return dict.fromkeys(self.workload.tenants, 1.0)

    def deployment(self, folder: Path) -> Plan:
        return mock_plan(
            folder,
            self.weight_of,
            self.replicas,
            engines=self.engines,
            engine=self.engine,
            pool={"policy": self.policy, "predict": self.predict},
            store={"flush_s": self.flush_s, **NOTHING_DIES},
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
    """Raises ProcessError where a request is too large for an engine or a program does not start, TargetError where
    the gateways do not serve the model."""
    most = plan.engine.kv_tokens
    if too_large := [r for r in plan.workload.requests if r.input_tokens + r.output_tokens > most]:
        largest = max(r.input_tokens + r.output_tokens for r in too_large)
        raise ProcessError(f"a request of {plan.workload.name} has {largest} tokens; expected at most {most}")
    entries = skewed_entries(plan.workload.tenants, plan.replicas)
    load, engines, cpu = run_over(plan.deployment(folder), entries, plan.load(), progress)
    run = judge(plan.policy, load, engines, COST, plan.weight_of)
    kept_pace = pace(engines, load.started_at + LEAD_S, load.started_at + run.last_arrival_s)
    limit = bound_of(plan.engine, plan.weight_of, plan.engines)
    return BoundFound(plan, run, limit, engines, kept_pace, cpu)


def run_bound(plans: Sequence[BoundPlan], folder: Path, console: Console, progress: Progress) -> bool:
    """Run each, print a table and what was found. Returns whether all promises were kept."""
    found = [
        measure_bound(plan, folder / f"bound-{plan.policy}", within(progress, plan.policy, number, len(plans)))
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
