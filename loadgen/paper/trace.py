"""Figures 11 to 14: the Chatbot Arena trace, Llama-2-7B on an A10G (OSDI'24, section 5.3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

import numpy as np

from loadgen.judge.results import Run
from loadgen.paper.curves import demand_rates
from loadgen.paper.experiment import Check, Experiment, Shown
from loadgen.paper.jobs import Job, Results, mean_cells
from loadgen.paper.synthetic import COST, moments_of, response_panel, wait
from loadgen.report.curves import Panel
from loadgen.report.numbers import number, percent

ARENA = "arena27"
VTC, FCFS = Job(ARENA), Job(ARENA, "fcfs")
LIMITS = (5, 10, 15, 20, 30)
SHOWN_LIMITS = (5, 15, 20, 30)


def rpm(limit: int) -> Job:
    return Job(ARENA, f"rpm:{limit}")


def by_requests(run: Run) -> list[str]:
    """Tenants, the one with the fewest requests first."""
    counts = Counter(record.tenant for record in run.records)
    return sorted(counts, key=lambda tenant: (counts[tenant], tenant))


def marked(run: Run) -> list[str]:
    """The paper's choice: two clients in the middle of the order, and the two that send the most."""
    ranked = by_requests(run)
    middle = len(ranked) // 2 - 1
    return [*ranked[middle : middle + 2], *ranked[-2:]]


def figure_11(results: Results) -> Shown:
    run = results.runs[VTC]
    x = moments_of(run, 60)
    asked = demand_rates(run.records, COST, x)
    inputs, outputs = ([getattr(r, name) for r in run.records] for name in ("input_tokens", "output_tokens"))
    busiest = by_requests(run)[-2:]
    part = sum(record.tenant in busiest for record in run.records) / len(run.records)
    finding = (
        f"{len(run.tenants)} clients send {len(run.records):,} requests, the two busiest {percent(part)} of them; "
        f"inputs are {min(inputs)} to {max(inputs)} tokens long, outputs {min(outputs)} to {max(outputs)}"
    )
    checks = [
        Check("mean input", fmean(inputs), 136, 0.1),
        Check("mean output", fmean(outputs), 256, 0.1),
        Check("longest input", max(inputs), 1021, 0.02),
        Check("longest output", max(outputs), 977, 0.02),
    ]
    names = dict(zip(sorted(run.tenants), asked, strict=True))
    panels = [
        Panel("asked by each client", "time (s)", "service asked per second", x, names, marked(run)),
        Panel("asked by all", "time (s)", "service asked per second", x, {"all clients": asked.sum(axis=0)}),
    ]
    return Shown(finding, part > 0.25, checks, "this is another trace", panels)


def figure_12(results: Results) -> Shown:
    vtc, fcfs = results.runs[VTC], results.runs[FCFS]
    light, heavy = by_requests(vtc)[:-2], by_requests(vtc)[-2:]
    waits = [wait(run, light) for run in (vtc, fcfs)]
    holds = waits[0] < waits[1] / 3 and wait(vtc, heavy) > 3 * waits[0]
    finding = (
        f"under FCFS everybody waits, the 25 lighter clients {number(waits[1])} s on average; under VTC they wait "
        f"{number(waits[0])} s and the two that send the most {number(wait(vtc, heavy))} s"
    )
    checks = [
        Check("lighter clients under VTC", waits[0], 4.19, 0.35),
        Check("under FCFS", waits[1], 43.75, 0.35),
    ]
    panels = [response_panel(vtc, "vtc", marked(vtc)), response_panel(fcfs, "fcfs", marked(fcfs))]
    return Shown(finding, holds, checks, panels=panels)


RECORDED_WAITS = {5: 0.21, 15: 1.76, 20: 3.68, 30: 19.08}  # seconds, of the 25 lighter clients


def figure_13(results: Results) -> Shown:
    runs = {limit: results.runs[rpm(limit)] for limit in SHOWN_LIMITS}
    light = by_requests(next(iter(runs.values())))[:-2]
    waits = {limit: wait(run, light) for limit, run in runs.items()}
    told = ", ".join(f"{number(waits[limit])} s at {limit}" for limit in SHOWN_LIMITS)
    finding = f"the looser the limit, the more RPM is like FCFS: the 25 lighter clients wait {told} requests a minute"
    checks = [Check(f"limit {limit}:", waits[limit], RECORDED_WAITS[limit], 0.35) for limit in SHOWN_LIMITS]
    panels = [response_panel(run, f"rpm:{limit}", marked(run)) for limit, run in runs.items()]
    return Shown(finding, _rises([waits[limit] for limit in SHOWN_LIMITS]), checks, panels=panels)


RECORDED_THROUGHPUT = {5: 340, 10: 532, 15: 626, 20: 694, 30: 747}


def figure_14(results: Results) -> Shown:
    def throughput(job: Job) -> float:
        return mean_cells([one.weighted for one in results.rows[job]]).throughput

    rates = {limit: throughput(rpm(limit)) for limit in LIMITS}
    best = throughput(VTC)
    finding = (
        f"RPM's throughput rises with its limit from {number(rates[5])} to {number(rates[30])} tokens a second and "
        f"stays below VTC's {number(best)}"
    )
    checks = [Check(f"rpm:{limit}", rates[limit], RECORDED_THROUGHPUT[limit], 0.05) for limit in LIMITS]
    checks.append(Check("vtc", best, 779, 0.05))
    lines = {"rpm": np.array(list(rates.values())), "vtc": np.full(len(LIMITS), best)}
    panel = Panel("throughput", "requests a minute and client", "tokens/s", np.array(LIMITS, float), lines)
    return Shown(finding, _rises(list(rates.values())) and rates[30] < best, checks, panels=[panel])


def _rises(values: Sequence[float]) -> bool:
    return all(sooner < later for sooner, later in pairwise(values))


TRACE = (
    Experiment("figure-11", "Figure 11: what the real trace asks", "27 clients over 10 minutes.", figure_11, (VTC,)),
    Experiment(
        "figure-12",
        "Figure 12: waits on the real trace",
        "Clients as in figure 11.",
        figure_12,
        (VTC, FCFS),
    ),
    Experiment(
        "figure-13",
        "Figure 13: waits under RPM limits",
        "Clients as in figure 11.",
        figure_13,
        tuple(rpm(limit) for limit in SHOWN_LIMITS),
    ),
    Experiment(
        "figure-14",
        "Figure 14: throughput under RPM limits",
        "Clients as in figure 11.",
        figure_14,
        rows=(VTC, *(rpm(limit) for limit in LIMITS)),
    ),
)
