"""Figures 15, 16 and 19: pool and request length, weights, length prediction (OSDI'24, section 5.4, appendix B)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import fmean

import numpy as np

from loadgen.judge.metrics import Floats
from loadgen.judge.results import Run
from loadgen.paper.curves import accumulated_difference
from loadgen.paper.experiment import Check, Experiment, Shown
from loadgen.paper.jobs import TABLE_S, Job, Results
from loadgen.paper.synthetic import COST, DIFFERENCE, rates, service_panel, told
from loadgen.report.curves import Panel
from loadgen.report.numbers import number
from loadgen.simulator.engine import ENGINES
from loadgen.simulator.simulate import service_bound

SMALL, LARGE = "a100-13b", "a100-13b-65k"
POOLS = (Job("overload-35000-512", engine=SMALL), Job("overload-65000-512", engine=LARGE))
LENGTHS = tuple(Job(f"overload-35000-{length}", engine=SMALL) for length in (256, 512, 768))
JOBS_15 = (*POOLS, LENGTHS[0], LENGTHS[2])
WARM_S = 120.0  # what ended before it does not count


PHASES = range(4)  # seeds: whether the two clients fall into step hangs on milliseconds
RECORDED = {"512 in 35,000": 51_698, "512 in 65,000": 95_647, "256 in 35,000": 31_965, "768 in 35,000": 51_689}


def figure_15(results: Results) -> Shown:
    panels = [
        _panel("by pool, 512 / 512 tokens", results, dict(zip(("35,000", "65,000"), POOLS, strict=True))),
        _panel("by length, pool 35,000", results, dict(zip(("256", "512", "768"), LENGTHS, strict=True))),
    ]
    seen = {name: _largest(results, job) for name, job in zip(RECORDED, JOBS_15, strict=True)}
    half, whole, short, long = (fmean(each) for each in seen.values())
    spread = (min(seen["256 in 35,000"]), max(seen["256 in 35,000"]))
    bounds = [service_bound(COST, ENGINES[name], {}, ["one", "other"]) for name in (SMALL, LARGE)]
    holds = short < half < whole and short < long
    finding = (
        f"the largest difference {'grows' if holds else 'does NOT grow'} with the pool ({told([half, whole])} for "
        f"35,000 and 65,000 tokens; bounds {told(bounds)}) and with the length ({told([short, half, long])} for "
        f"256, 512 and 768), as means over {len(PHASES)} seeds, between which 256 tokens move over {told(spread)}"
    )
    checks = [Check(name, fmean(each), RECORDED[name], 0.35, (min(each), max(each))) for name, each in seen.items()]
    return Shown(finding, holds, checks, panels=panels)


def _largest(results: Results, job: Job) -> list[float]:
    x = _moments(results)
    return [float(_warm(results.runs[replace(job, seed=seed)], x).max()) for seed in PHASES]


def _panel(title: str, results: Results, jobs: Mapping[str, Job]) -> Panel:
    x = _moments(results)
    return Panel(title, "time (s)", DIFFERENCE, x, {name: _warm(results.runs[job], x) for name, job in jobs.items()})


def _moments(results: Results) -> Floats:
    return np.linspace(WARM_S, results.runs[LENGTHS[0]].last_arrival_s, 50)


def _warm(run: Run, x: Floats) -> Floats:
    """As published, what ended in the first two minutes does not count."""
    kept = [record for record in run.records if record.finish_s is None or record.finish_s >= WARM_S]
    return accumulated_difference(kept, COST, x)


PLAIN, BY_WEIGHT = Job("overload-weighted"), Job("overload-weighted", weighted=True)


def figure_16(results: Results) -> Shown:
    plain, weighted = results.runs[PLAIN], results.runs[BY_WEIGHT]
    equal, shared = (
        [rate / sum(each) for rate in each] for each in (rates(run, (60, 360)) for run in (plain, weighted))
    )
    finding = (
        f"four overloaded clients receive {_shares(equal)} of the service under VTC, and {_shares(shared)} with "
        "weights of 1, 2, 3 and 4"
    )
    names = [f"client {i}" for i in (1, 2, 3, 4)]
    alike = [Check(f"{name} without weights", part, 0.25, 0.08) for name, part in zip(names, equal, strict=True)]
    checks = [
        Check(f"{name} with", part, i / 10, 0.08) for i, (name, part) in enumerate(zip(names, shared, strict=True), 1)
    ]
    holds = all(check.agrees for check in alike) and all(one < other for one, other in pairwise(shared))
    panels = [service_panel(plain, "vtc"), service_panel(weighted, "vtc, weights 1 to 4")]
    return Shown(finding, holds, checks, panels=panels)


def _shares(parts: Sequence[float]) -> str:
    return ", ".join(f"{part:.3f}" for part in parts)


PREDICTIONS = {"vtc": "none", "vtc (±50 %)": "0.5", "vtc (oracle)": "oracle"}
START_S = 30.0
RECORDED_MAX = {"overload": (9_050, 1_789, 377), "overload-multi": (2_976, 1_277, 746)}


def predicted(workload: str, predict: str) -> Job:
    return Job(workload, predict=predict)


def figure_19(results: Results) -> Shown:
    panels = [_predictions(results, workload, title) for workload, title in TITLES.items()]
    largest = [[float(line.max()) for line in panel.lines.values()] for panel in panels]
    holds = all(one > other for each in largest for one, other in pairwise(each))
    finding = (
        f"the better the prediction, the smaller the difference: largest {', '.join(map(number, largest[0]))} with two "
        f"clients, {', '.join(map(number, largest[1]))} with eight (none, ±50 %, oracle)"
    )
    checks = [
        Check(f"{title}, {name}", found, published, 0.5)
        for (workload, title), each in zip(TITLES.items(), largest, strict=True)
        for name, found, published in zip(PREDICTIONS, each, RECORDED_MAX[workload], strict=True)
    ]
    return Shown(finding, holds, checks, "single runs were published, whose arrivals had another phase", panels)


TITLES = {"overload": "two clients", "overload-multi": "eight clients"}


def _predictions(results: Results, workload: str, title: str) -> Panel:
    """From 30 s on, at the moments of the published figure, into the drain: everybody still has a queue."""
    x = START_S + np.arange(1, 20) * (TABLE_S - START_S) / 20
    runs = {name: results.runs[predicted(workload, predict)] for name, predict in PREDICTIONS.items()}
    lines = {name: accumulated_difference(run.records, COST, x, START_S) for name, run in runs.items()}
    return Panel(title, "time (s)", DIFFERENCE, x, lines)


APPENDIX = (
    Experiment(
        "figure-15",
        "Figure 15: pool and request length",
        "Two overloaded clients, Llama-2-13B on an A100 of 80 GB; rates as in the recorded runs.",
        figure_15,
        tuple(replace(job, seed=seed) for job in JOBS_15 for seed in PHASES),
    ),
    Experiment(
        "figure-16",
        "Figure 16: weights",
        "48, 48, 72 and 96 requests a minute, 256 / 256 tokens.",
        figure_16,
        (PLAIN, BY_WEIGHT),
    ),
    Experiment(
        "figure-19",
        "Figure 19: length prediction",
        "The workloads of tables 5 and 6.",
        figure_19,
        tuple(predicted(workload, predict) for workload in TITLES for predict in PREDICTIONS.values()),
    ),
)
