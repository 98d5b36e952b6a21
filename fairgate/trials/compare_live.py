"""`fairgate compare --live`: the same load under four policies, over HTTP through a real gateway and worker."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from fairgate.errors import ProcessError
from fairgate.progress import progress_bar
from fairgate.topology.deployment import Deployment
from fairgate.topology.plan import ModelWorker, Plan
from fairgate.topology.settings import DEEP_QUEUE, DEMO_KEYS, POOL, demo_settings
from fairness import Weighted
from loadgen.client.open_loop import run_load
from loadgen.client.record import LoadRecord
from loadgen.client.target import Target
from loadgen.judge.live import measure
from loadgen.judge.results import Comparison, Run
from loadgen.judge.saturation import live_comparison, saturation
from loadgen.workloads.arrivals import steady_load
from loadgen.workloads.workload import Request

MODEL = "smollm2"
COST = Weighted()
LIGHT, HEAVY = "alice", "bob"
WEIGHTS = {LIGHT: 1.0, HEAVY: 1.0}
# Short requests in a small room: the window that shares need grows with the bound, and the bound with the room.
INPUT_TOKENS, OUTPUT_TOKENS = 48, 32
SLOTS = 4
KV_TOKENS = SLOTS * 96  # a prompt comes out a little longer or shorter than asked for, and rooms are whole pages
TOLERANCE = 0.03
LIGHT_OFFER = 1.4  # times its fair share; the heavy tenant sends three times as many
RPM_OF_FAIR_SHARE = 0.8
CALIBRATION_S = 20.0


@dataclass(frozen=True)
class CompareLivePlan:
    """What is sent, from what the worker was measured to serve (`capacity`, service units a second)."""

    capacity: float
    seconds: float

    @property
    def light_rate(self) -> float:
        """Requests a second of the light tenant."""
        return LIGHT_OFFER * self._fair_rate

    @property
    def _fair_rate(self) -> float:
        return self.capacity / 2 / COST.service(INPUT_TOKENS, OUTPUT_TOKENS)

    def policies(self) -> list[str]:
        return ["vtc", "fcfs", "lcf", f"rpm:{max(1, round(60 * RPM_OF_FAIR_SHARE * self._fair_rate))}"]

    def load(self) -> tuple[Request, ...]:
        rates = {LIGHT: self.light_rate, HEAVY: 3 * self.light_rate}
        return steady_load(rates, self.seconds, INPUT_TOKENS, OUTPUT_TOKENS)


def service_bound() -> float:
    """2U / min(w) of the worker's room, in service units."""
    return 2 * COST.most_rise(KV_TOKENS, KV_TOKENS, KV_TOKENS)


def compare_live(seconds: float, console: Console) -> Comparison:
    """`seconds` of load per policy; 0: as long as it takes for shares to mean anything (DESIGN section 8).

    Raises ProcessError when a program does not come up, TargetError when it refuses the load.
    """
    with tempfile.TemporaryDirectory(prefix="fairgate-") as folder, Deployment(_plan(Path(folder))) as deployment:
        with progress_bar() as progress:
            progress("starting the worker", 0.0)
            deployment.start()
        plan = _calibrate(deployment, seconds)
        console.print(_announce(plan), highlight=False)
        runs = [_one_run(policy, plan, deployment, console) for policy in plan.policies()]
    settings = {
        "engine": f"{MODEL} on a real worker, {SLOTS} slots, {KV_TOKENS} KV tokens",
        "seconds": f"{plan.seconds:.0f}",
    }
    return live_comparison(
        "live, two tenants 1:3", runs, COST, WEIGHTS, service_bound(), tolerance=TOLERANCE, settings=settings
    )


def _plan(folder: Path) -> Plan:
    worker = ModelWorker(MODEL, {"kv-tokens": KV_TOKENS, "max-running": SLOTS})
    return Plan(folder, worker, _settings("fcfs"))


def _settings(policy: str) -> dict[str, Any]:
    """The demonstration with equal weights, deep queues, and reservations that are never too small."""
    settings = demo_settings(MODEL)
    settings["pools"][POOL] |= {"policy": policy, "predict": "max_tokens", "queue": DEEP_QUEUE}
    settings["observe"] = {"access_log": False}
    for tenant in settings["tenants"]:
        tenant["weight"] = 1.0
    return settings


def _calibrate(deployment: Deployment, seconds: float) -> CompareLivePlan:
    """A short overload tells what the worker serves: its second half, when the model and the prompts are warm."""
    burst = steady_load({LIGHT: 4.0, HEAVY: 4.0}, CALIBRATION_S, INPUT_TOKENS, OUTPUT_TOKENS)
    run = measure("fcfs", _send(burst, deployment, "calibrating"), COST, WEIGHTS)
    series, half = run.series, CALIBRATION_S / 2
    at = [sum(time <= moment for time in series.times_s) - 1 for moment in (half, run.last_arrival_s)]
    served = sum(service[at[1]] - service[at[0]] for service in series.service.values())
    capacity = served / (series.times_s[at[1]] - series.times_s[at[0]])
    if not capacity:
        raise ProcessError(f"the worker served nothing in {CALIBRATION_S:.0f} s: is this machine overloaded?")
    needed = service_bound() / (2 * TOLERANCE)
    return CompareLivePlan(capacity, seconds or 1.5 * needed / capacity)


def _one_run(policy: str, plan: CompareLivePlan, deployment: Deployment, console: Console) -> Run:
    """With a gateway that knows nothing of the run before."""
    deployment.reconfigure(_settings(policy))
    run = measure(policy, _send(plan.load(), deployment, policy), COST, WEIGHTS)
    console.print(
        f"{policy}: {saturation(run, COST, WEIGHTS, service_bound(), TOLERANCE)}", highlight=False, soft_wrap=True
    )
    return run


def _send(load: tuple[Request, ...], deployment: Deployment, what: str) -> LoadRecord:
    [url] = deployment.gateway_urls
    target = Target(url, {tenant: DEMO_KEYS[tenant] for tenant in WEIGHTS}, MODEL, drain_s=0.1)
    with progress_bar() as progress:
        return asyncio.run(run_load(target, load, progress=lambda doing, part: progress(f"{what}: {doing}", part)))


def _announce(plan: CompareLivePlan) -> str:
    return (
        f"the worker serves {plan.capacity:,.0f} service units/s; each policy gets {plan.seconds:.0f} s of "
        f"{plan.light_rate:.2f} requests/s from {LIGHT} and {3 * plan.light_rate:.2f} from {HEAVY}"
    )
