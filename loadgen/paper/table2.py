"""The paper's table 2 again: the 27-client trace under every policy, mean over jittered seeds, beside the
published figures: `fairgate arena`.

A single run means little: 50 ms of jitter move VTC's maximum by a third.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass
from statistics import fmean

from rich.table import Table

from loadgen.judge.results import Outcome
from loadgen.simulator.parallel import in_parallel
from loadgen.simulator.simulate import simulate
from loadgen.workloads.catalogue import load_workload

WORKLOAD = "arena27"


@dataclass(frozen=True, slots=True)
class Figures:
    """Service difference (units per second), throughput (tokens per second), rejected requests. None: not known."""

    diff_max: float | None
    diff_avg: float
    throughput: float | None
    rejected: float | None = None


Key = tuple[str, str]  # (policy, predict)

# OSDI'24 table 2: Llama-2-7B on an A10G.
PUBLISHED: dict[Key, Figures] = {
    ("fcfs", "none"): Figures(760, 434, None),
    ("lcf", "none"): Figures(750, 324, None),
    ("vtc", "none"): Figures(368, 252, 779),
    ("vtc", "ewma"): Figures(365, 240, None),
    ("vtc", "oracle"): Figures(329, 228, None),
    ("rpm:5", "none"): Figures(144, 84, 340),
    ("rpm:20", "none"): Figures(None, 196, None),
    ("rpm:30", "none"): Figures(None, 309, None),
}


def reproduce(
    seeds: Iterable[int], keys: Iterable[Key] = tuple(PUBLISHED), progress: Callable[[float], None] | None = None
) -> dict[Key, Figures]:
    """The mean of each figure over `seeds`, for each (policy, predict); seeds run in parallel.

    `progress` is told the part of all runs that has ended.
    """
    wanted = [(policy, predict, seed) for policy, predict in keys for seed in seeds]
    found: dict[Key, list[Figures]] = {}
    for done, (item, figures) in enumerate(in_parallel(_run, wanted), 1):
        found.setdefault(item[:2], []).append(figures)
        if progress:
            progress(done / len(wanted))
    return {key: _mean(found[key]) for key in dict.fromkeys(item[:2] for item in wanted)}  # not as they got ready


def _run(item: tuple[str, str, int]) -> Figures:
    policy, predict, seed = item
    run = simulate(WORKLOAD, [policy], predict=predict, seed=seed).runs[0]
    difference = run.service_difference
    return Figures(difference.max, difference.avg, run.throughput_tokens_per_s, run.count(Outcome.REJECTED))


def _mean(runs: list[Figures]) -> Figures:
    columns = zip(*(astuple(run) for run in runs), strict=True)
    return Figures(*(fmean(column) for column in columns))


def table(found: Mapping[Key, Figures], seeds: int) -> Table:
    """What was found beside what was published (in brackets)."""
    result = Table(title=f"{load_workload(WORKLOAD).name}, mean over {seeds} seeds (published)")
    for heading in ("policy", "predict", "service difference max", "average", "tokens/s", "rejected"):
        result.add_column(heading, justify="left" if heading in ("policy", "predict") else "right")
    for key, figures in found.items():
        published = PUBLISHED[key]
        result.add_row(
            *key,
            _beside(figures.diff_max, published.diff_max),
            _beside(figures.diff_avg, published.diff_avg),
            _beside(figures.throughput, published.throughput),
            _beside(figures.rejected, published.rejected),
        )
    return result


def _beside(found: float | None, published: float | None) -> str:
    return f"{found:.0f}" + ("" if published is None else f" ({published:.0f})")
