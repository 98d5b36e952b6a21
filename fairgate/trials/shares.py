"""`fairgate replicas shares`: do several gateways together give shares by weight? Live, judged by the engine's log.

Two tenants 4:1, one of whom enters through one replica only; the control keeps a queue per replica. The tenant that
enters through one replica is the one with the larger weight: a gateway that knows only its own queue cannot give it
more than the 1/n of the engines that it has itself, whatever its weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fairgate.promises import Promise, tell, within
from fairgate.topology.plan import MockEngine, Plan, mock_plan
from fairgate.topology.settings import DEEP_QUEUE
from fairgate.trials.engines import COST, LEAD_S, bound_of, pace, room_kept, run_over
from loadgen.judge.engines import EngineRecord
from loadgen.judge.live import judge
from loadgen.judge.saturation import Saturation, saturation
from loadgen.progress import Progress, quiet
from loadgen.workloads.arrivals import steady_load
from loadgen.workloads.workload import Request

LIGHT, HEAVY = "light", "heavy"
SLOTS = 4
INPUT_TOKENS, OUTPUT_TOKENS = 8, 8
OFFER = 1.35  # the light tenant offers so many times its fair share, the heavy one so many times the whole
MAX_WAITING = 150  # of a tenant; what comes on top is refused, so that memory stays bounded and somebody always waits
CLEARLY = 5  # times the tolerance by which the control has to miss


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

    @property
    def weight_of(self) -> dict[str, float]:
        return dict(zip((LIGHT, HEAVY), self.weights, strict=True))

    @property
    def engine(self) -> MockEngine:
        return MockEngine(SLOTS, SLOTS * (INPUT_TOKENS + OUTPUT_TOKENS), self.step_s)

    def deployment(self, folder: Path) -> Plan:
        pool = {"queue": {**DEEP_QUEUE, "max_requests_per_tenant": MAX_WAITING}}
        return mock_plan(folder, self.weight_of, self.replicas, engine=self.engine, shared=self.shared, pool=pool)

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
    entries = {LIGHT: [0], HEAVY: range(plan.replicas)}
    load, engines, cpu = run_over(plan.deployment(folder), entries, plan.load(), progress)
    run = judge("vtc", load, engines, COST, plan.weight_of)
    seen = saturation(run, COST, plan.weight_of, bound_of(plan.engine, plan.weight_of), plan.tolerance)
    start, end = (load.started_at + moment for moment in seen.window_s)
    return SharesFound(plan, seen, engines, pace(engines, start, end), cpu)


def run_shares(plans: Sequence[SharesPlan], folder: Path, console: Console, progress: Progress) -> bool:
    """Run each, print a table and what was found. Returns whether all promises were kept."""
    found = [
        measure_shares(plan, folder / f"shares-{number}", within(progress, _title(plan), number, len(plans)))
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
