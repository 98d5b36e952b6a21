"""The Chatbot Arena trace of the paper's tables 2 and 3: where it lies, and a synthetic workload made from its
statistics for where it does not."""

from __future__ import annotations

import os
import random
from math import exp, log, sqrt
from pathlib import Path

from loadgen.workloads.workload import Request, Workload, by_arrival

TRACES_VARIABLE = "FAIRGATE_TRACES"
ARENA_FILE = "vtc_arena27.csv.gz"

# The trace in numbers: requests of each client over 600 s, lengths in tokens at
# the quantiles 0, .1, .25, .5, .75, .9, .99 and 1, and how much the rate rises from the first second to the last.
ARENA_REQUESTS = (
    296,
    262,
    199,
    120,
    67,
    66,
    56,
    46,
    44,
    43,
    40,
    36,
    31,
    26,
    25,
    23,
    22,
    22,
    19,
    19,
    12,
    11,
    7,
    3,
    2,
    2,
    1,
)
ARENA_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
ARENA_INPUT = (2, 5, 13, 40, 161, 432, 902, 1021)
ARENA_OUTPUT = (2, 18, 62, 211, 458, 513, 785, 977)
ARENA_S = 600.0
ARENA_RISE = 1.3


def arena_synthetic() -> Workload:
    """A workload with the statistics of the trace, the same at every call."""
    chance = random.Random("arena27-synthetic")
    requests = [
        Request(_arena_moment(chance), f"client-{client:02}", _draw(chance, ARENA_INPUT), _draw(chance, ARENA_OUTPUT))
        for client, count in enumerate(ARENA_REQUESTS)
        for _ in range(count)
    ]
    return Workload("arena27-synthetic", by_arrival(requests))


def _arena_moment(chance: random.Random) -> float:
    """A moment whose density rises linearly by ARENA_RISE over the trace."""
    rise = ARENA_RISE - 1
    return ARENA_S * (sqrt(1 + rise * (2 + rise) * chance.random()) - 1) / rise


def _draw(chance: random.Random, lengths: tuple[int, ...]) -> int:
    """A length from its quantiles, log-linear between them."""
    u = chance.random()
    above = next(i for i, q in enumerate(ARENA_QUANTILES) if q > u)
    low, high = log(lengths[above - 1]), log(lengths[above])
    part = (u - ARENA_QUANTILES[above - 1]) / (ARENA_QUANTILES[above] - ARENA_QUANTILES[above - 1])
    return round(exp(low + part * (high - low)))


def arena_trace() -> Path | None:
    """Where the 27-client trace lies: in the folder FAIRGATE_TRACES, else in shared/traces beside the checkout."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "traces"
    path = Path(os.environ.get(TRACES_VARIABLE) or beside) / ARENA_FILE
    return path if path.is_file() else None
