"""Figures 15, 16 and 19: pool and request length, weights, length prediction (OSDI'24, section 5.4, appendix B)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from loadgen.engine import ENGINES
from loadgen.findings import number
from loadgen.panels import Panel
from loadgen.paper_experiment import Check, Experiment, Shown
from loadgen.paper_jobs import TABLE_S, Job, Results
from loadgen.paper_metrics import accumulated_difference
from loadgen.paper_synthetic import COST, DIFFERENCE, rates, service_panel, told
from loadgen.simulate import service_bound

SMALL, LARGE = "a100-13b", "a100-13b-65k"
POOLS = (Job("overload-35000-512", engine=SMALL), Job("overload-65000-512", engine=LARGE))
LENGTHS = tuple(Job(f"overload-35000-{length}", engine=SMALL) for length in (256, 512, 768))
WARM_S = 120.0  # what ended before it does not count


def figure_15(results: Results) -> Shown:
    pools = _panel("by pool, 512 / 512 tokens", results, dict(zip(("35,000", "65,000"), POOLS, strict=True)))
    lengths = _panel("by length, pool 35,000", results, dict(zip(("256", "512", "768"), LENGTHS, strict=True)))
    by_pool, by_length = ([float(line.max()) for line in panel.lines.values()] for panel in (pools, lengths))
    bounds = [service_bound(COST, ENGINES[name], {}, ["one", "other"]) for name in (SMALL, LARGE)]
    holds = by_pool[0] < by_pool[1] and by_length[0] < min(by_length[1:])
    finding = (
        f"the difference {'grows' if holds else 'does NOT grow'} with the pool (largest {told(by_pool)} for 35,000 and "
        f"65,000 tokens; bounds {told(bounds)}) and with the length (largest {', '.join(map(number, by_length))} for "
        "256, 512 and 768)"
    )
    found = (*by_pool, by_length[0], by_length[2])
    checks = [Check(name, value, RECORDED[name], 0.35) for name, value in zip(RECORDED, found, strict=True)]
    return Shown(finding, holds, checks, panels=[pools, lengths])


RECORDED = {"512 in 35,000": 51_698, "512 in 65,000": 95_647, "256 in 35,000": 31_965, "768 in 35,000": 51_689}


def _panel(title: str, results: Results, jobs: Mapping[str, Job]) -> Panel:
    """As published, what ended in the first two minutes does not count."""
    x = np.linspace(WARM_S, results.runs[LENGTHS[0]].last_arrival_s, 50)
    lines = {}
    for name, job in jobs.items():
        kept = [r for r in results.runs[job].records if r.finish_s is None or r.finish_s >= WARM_S]
        lines[name] = accumulated_difference(kept, COST, x)
    return Panel(title, "time (s)", DIFFERENCE, x, lines)


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
        (*POOLS, LENGTHS[0], LENGTHS[2]),
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
