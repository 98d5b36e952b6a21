"""What the paper's experiments need simulated: whole runs for the figures, means over jittered seeds for the tables."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from statistics import fmean

import numpy as np

from fairness import Weighted, parse_cost
from loadgen.judge.metrics import service_difference
from loadgen.judge.results import Outcome, Run
from loadgen.progress import Progress
from loadgen.simulator.parallel import in_parallel
from loadgen.simulator.simulate import simulate

TABLE_S = 600.0  # the horizon of every published table
# The fit that the authors' runs were scheduled and measured by: a tenth of the one printed in appendix B.2.
PROFILED = "profiled:a=0.21001891,b=0.10075395,c=0.0039868,d=0.00324733,e=1.14601454"


@dataclass(frozen=True, slots=True)
class Job:
    """One simulation. With `weighted` the tenants have the workload's weights, else all have 1."""

    workload: str
    policy: str = "vtc"
    predict: str = "none"
    cost: str = "weighted"
    engine: str = "a10g-7b"
    weighted: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Cells:
    """A row of a table: service difference (units per second), throughput (tokens per second), part rejected."""

    diff_max: float
    diff_avg: float
    diff_var: float
    throughput: float
    rejected: float = 0.0


@dataclass(frozen=True, slots=True)
class Measured:
    """The same run by both cost functions. As published, the demand counts in weighted tokens in both."""

    weighted: Cells
    profiled: Cells


@dataclass(frozen=True, slots=True)
class Results:
    """`runs` by job; `rows` by job with seed 0, one entry for each of `seeds` seeds."""

    runs: Mapping[Job, Run]
    rows: Mapping[Job, Sequence[Measured]]
    seeds: int


def run_job(job: Job) -> Run:
    return simulate(
        job.workload,
        [job.policy],
        weights=None if job.weighted else {},
        cost=job.cost,
        predict=job.predict,
        engine=job.engine,
        seed=job.seed,
    ).runs[0]


def measure_job(job: Job) -> Measured:
    run = run_job(job)
    return Measured(_cells(run, "weighted"), _cells(run, PROFILED))


def _cells(run: Run, cost: str) -> Cells:
    tenants = list(run.tenants)
    difference = service_difference(
        run.records, tenants, np.ones(len(tenants)), parse_cost(cost), TABLE_S, demand_cost=Weighted()
    )
    rejected = run.count(Outcome.REJECTED) / len(run.records)
    return Cells(difference.max, difference.avg, difference.var, run.throughput_tokens_per_s, rejected)


def run_all(runs: Collection[Job], rows: Collection[Job], seeds: int, progress: Progress) -> Results:
    """Simulate `runs` once and `rows` over seeds 1 to `seeds`. `progress` is told (what ended, part of all)."""
    trials = [replace(job, seed=seed) for job in rows for seed in range(1, seeds + 1)]
    total = len(runs) + len(trials)
    done: dict[Job, Run] = {}
    for job, run in in_parallel(run_job, runs):
        done[job] = run
        progress(_named(job), len(done) / total)
    measured: dict[Job, list[Measured]] = {}
    for count, (job, cells) in enumerate(in_parallel(measure_job, trials), len(done) + 1):
        measured.setdefault(replace(job, seed=0), []).append(cells)
        progress(_named(job), count / total)
    return Results(done, measured, seeds)


def _named(job: Job) -> str:
    return f"{job.workload}, {job.policy}"


def mean_cells(each: Collection[Cells]) -> Cells:
    return Cells(*(fmean(column) for column in _columns(each)))


def range_cells(each: Collection[Cells]) -> tuple[Cells, Cells]:
    """The least and the largest of each value."""
    return Cells(*map(min, _columns(each))), Cells(*map(max, _columns(each)))


def _columns(each: Collection[Cells]) -> list[tuple[float, ...]]:
    return list(zip(*map(astuple, each), strict=True))
