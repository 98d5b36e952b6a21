"""What engines did, by their own service logs: how large they are, what they were given, and who received what when.

The logs are the judge of a live run: they do not depend on what a gateway believes, nor on what a client got to see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from fairness import CostFunction
from loadgen.judge.metrics import ServiceEvents
from loadgen.service_log import Peaks, Served, Start, read_service_log

NO_PEAKS = Peaks()


@dataclass(slots=True)
class EngineLog:
    """One engine over all its starts: its size, and the most it was ever given (`Peaks`)."""

    slots: int = 0
    kv_tokens: int = 0
    step_s: float = 0.0
    starts: int = 0
    peaks: Peaks = NO_PEAKS

    def note(self, entry: Start | Peaks) -> None:
        if isinstance(entry, Peaks):
            self.peaks = self.peaks.highest(entry)
        else:
            self.slots, self.kv_tokens, self.step_s = entry.slots, entry.kv_tokens, entry.step_s
            self.starts += 1


@dataclass(slots=True)
class Work:
    """All that engines did for one request of a client: when it came, prefills, output, and how its runs ended."""

    tenant: str
    arrivals: list[float] = field(default_factory=list)
    inputs: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    ends: int = 0
    aborts: int = 0


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """What all engines of a run did, in order of time."""

    engines: Mapping[Path, EngineLog]
    served: tuple[Served, ...]

    def service_events(self, cost: CostFunction, zero: float = 0.0) -> ServiceEvents:
        """Service as it happened, from Unix time `zero` on, in seconds since then."""
        events = ServiceEvents()
        runs: dict[tuple[Path, str], tuple[int, int, float]] = {}  # (input, output, service) so far
        for t, engine, event, tenant, name, tokens in self.served:
            if event not in ("input", "output"):
                continue
            n_in, n_out, before = runs.get((engine, name), (0, 0, 0.0)) if event == "output" else (0, 0, 0.0)
            n_in, n_out = (n_in, n_out + tokens) if event == "output" else (tokens, 0)
            now = cost.service(n_in, n_out)
            runs[engine, name] = n_in, n_out, now
            if t >= zero:
                events.add(t - zero, tenant, now - before, tokens)
        return events

    def service(self, cost: CostFunction, start: float = -inf, end: float = inf) -> dict[str, float]:
        """Each tenant's service over [start, end) of Unix time; every tenant of the log, in order of names."""
        received = dict.fromkeys(sorted({line.tenant for line in self.served}), 0.0)
        events = self.service_events(cost)
        for t, tenant, service in zip(events.times_s, events.tenants, events.service, strict=True):
            if start <= t < end:
                received[tenant] += service
        return received

    def shares(self, cost: CostFunction, start: float = -inf, end: float = inf) -> dict[str, float]:
        """Each tenant's part of all service over [start, end) of Unix time; 0 for all where there was none."""
        received = self.service(cost, start, end)
        total = sum(received.values())
        return {tenant: service / total if total else 0.0 for tenant, service in received.items()}

    def requests(self) -> dict[str, Work]:
        """By the id that the client sent: a gateway may add `-SUFFIX` for each of its attempts, an id holds no `-`."""
        found: dict[str, Work] = {}
        for line in self.served:
            work = found.setdefault(line.id.partition("-")[0], Work(line.tenant))
            _enter(work, line)
        return found


def _enter(work: Work, line: Served) -> None:
    if line.event == "arrival":
        work.arrivals.append(line.t)
    elif line.event == "input":
        work.inputs += 1
        work.input_tokens += line.tokens
    elif line.event == "output":
        work.output_tokens += line.tokens
    elif line.event == "end":
        work.ends += 1
    else:
        work.aborts += 1


def read_service_logs(*paths: Path) -> EngineRecord:
    """All logs as one. Raises ServiceLogError for one that cannot be used."""
    engines: dict[Path, EngineLog] = {}
    served: list[Served] = []
    for path in paths:
        engines[path] = engine = EngineLog()
        for entry in read_service_log(path):
            if isinstance(entry, Served):
                served.append(entry)
            else:
                engine.note(entry)
    served.sort(key=lambda line: line.t)
    return EngineRecord(engines, tuple(served))
