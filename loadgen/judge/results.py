"""What a comparison found: one frozen `Run` per policy, and the JSON contract of `fairgate simulate`.

The simulator and the live client both end here, so that the report, the plots and the table read one form.
Times are seconds from the start of the run. Service is in units of the cost function, before weights, except
where it is said to be divided by the tenant's weight.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import ceil


class Outcome(StrEnum):
    FINISHED = "finished"
    REJECTED = "rejected"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request of a run. `output_tokens` is what it produced (what it asked for, when it never got a token).

    `id` names it to the user: in a simulation the tenant and the place in the order of arrival, from 1 (`a-17`).
    Moments it never reached are None. `reason` is machine-readable (`too_large`, `rate_limit`...), empty when it
    finished. It waited in a queue over [arrival_s, dispatched_s).
    """

    id: str
    tenant: str
    input_tokens: int
    output_tokens: int
    arrival_s: float
    outcome: Outcome
    dispatched_s: float | None = None
    first_token_s: float | None = None
    finish_s: float | None = None
    reason: str = ""

    @property
    def ttft_s(self) -> float | None:
        """Time to first token, the "response time" of the paper's figures."""
        return None if self.first_token_s is None else self.first_token_s - self.arrival_s


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Nearest-rank percentiles; None when there was nothing to rank."""

    p50: float | None
    p90: float | None
    p99: float | None

    @classmethod
    def of(cls, values: Iterable[float]) -> Percentiles:
        ordered = sorted(values)
        if not ordered:
            return cls(None, None, None)
        return cls(*(ordered[max(0, ceil(rank * len(ordered) / 100) - 1)] for rank in (50, 90, 99)))

    def to_json(self) -> dict[str, float | None]:
        return {"p50": self.p50, "p90": self.p90, "p99": self.p99}


@dataclass(frozen=True, slots=True)
class ServiceDifference:
    """The paper's table 2 over 60 s windows, in service units per second."""

    max: float
    avg: float
    var: float

    def to_json(self) -> dict[str, float]:
        return {"max": self.max, "avg": self.avg, "var": self.var}


@dataclass(frozen=True, slots=True)
class TenantResult:
    """`service` and its `share` of all service are over [0, last arrival); counts are over the whole run."""

    service: float
    share: float
    finished: int
    rejected: int
    ttft_s: Percentiles

    def to_json(self) -> dict[str, object]:
        return {
            "service": self.service,
            "share": self.share,
            "finished": self.finished,
            "rejected": self.rejected,
            "ttft_s": self.ttft_s.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Series:
    """Time series on one even grid that starts at 0 and ends at or after the end of the drain.

    `service[tenant][k]` is the service received over [0, times_s[k]], cumulative and exact at the grid points.
    `gap[k]` is the accumulated service gap, divided by weights: the largest |dW_f/w_f - dW_g/w_g| over pairs and over
    intervals that end in (times_s[k-1], times_s[k]] and in which both wait throughout. The bound holds where it
    stays below 2U/min(w), during the drain too. `tokens[k]` counts input and output tokens over [0, times_s[k]].
    """

    times_s: tuple[float, ...]
    service: Mapping[str, tuple[float, ...]]
    gap: tuple[float, ...]
    tokens: tuple[float, ...]

    def shares(self, start_s: float, end_s: float) -> dict[str, float]:
        """Each tenant's share of the service received over the grid points in (start_s, end_s], 0 if there was none."""
        first, last = (max(0, bisect_right(self.times_s, moment) - 1) for moment in (start_s, end_s))
        received = {tenant: values[last] - values[first] for tenant, values in self.service.items()}
        total = sum(received.values())
        return {tenant: value / total if total else 0.0 for tenant, value in received.items()}


@dataclass(frozen=True, slots=True)
class Run:
    """One policy on one workload; the metrics are defined in `loadgen.judge.metrics`.

    `service_gap_max` is the largest accumulated gap up to the last arrival, in service units over weight. `jain` is
    of service over weight in [0, last arrival). The throughput is input and output tokens, to the end of the drain.
    """

    policy: str
    service_gap_max: float
    service_difference: ServiceDifference
    throughput_tokens_per_s: float
    jain: float
    ttft_s: Percentiles
    tenants: Mapping[str, TenantResult]
    records: tuple[RequestRecord, ...]
    series: Series
    last_arrival_s: float
    drained_s: float

    def count(self, outcome: Outcome) -> int:
        return sum(record.outcome is outcome for record in self.records)

    def refused_too_large(self) -> tuple[RequestRecord, ...]:
        """Requests larger than the pool: the caller names them to the user."""
        return tuple(record for record in self.records if record.reason == "too_large")

    def to_json(self) -> dict[str, object]:
        return {
            "policy": self.policy,
            "service_gap_max": self.service_gap_max,
            "service_difference": self.service_difference.to_json(),
            "throughput_tokens_per_s": self.throughput_tokens_per_s,
            "requests": {outcome.value: self.count(outcome) for outcome in Outcome},
            "jain": self.jain,
            "ttft_s": self.ttft_s.to_json(),
            "tenants": {tenant: result.to_json() for tenant, result in self.tenants.items()},
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same workload under several policies. `bound` is 2U / min(w), computed from cost, weights and pool.

    `settings` says how it was made (engine, predict, time scale...), for the head of a report; it is not part of
    the JSON contract.
    """

    workload: str
    seed: int
    bound: float
    runs: tuple[Run, ...]
    weights: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """The JSON contract of `fairgate simulate --json`: plain numbers, strings, lists and mappings."""
        return {
            "workload": self.workload,
            "seed": self.seed,
            "bound": self.bound,
            "runs": [run.to_json() for run in self.runs],
        }
