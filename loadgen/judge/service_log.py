"""The service log of engines: JSON lines that say which tenant received which tokens when, and what they add up to.

    {"t": 1700000000.02, "event": "start", "model": "mock", "slots": 16, "kv_tokens": 8192, "step_s": 0.02}
    {"t": ..., "event": "output", "tenant": "a", "id": "7f3a.12-4-1", "tokens": 1}
    {"t": ..., "event": "peak", "running": 16, "in_flight": 16, "tokens_held": 900, "tokens_reserved": 4096}

`t` in seconds of Unix time. What happens to a request: `arrival` (with its input tokens), `input` (its prefill is
done), `output`, and `end` or `abort` (with all output tokens). What a step did, and what arrived since the one before,
is one write, made before any of its tokens is sent: of what a killed engine sent, nothing is missing. An engine that
starts again on the same file begins a new line with a new `start`.

The log is the judge of a live run: it does not depend on what a gateway believes, nor on what a client got to see.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from fairness import CostFunction
from loadgen.client.record import Exchange, LoadRecord
from loadgen.judge.measure import request_records
from loadgen.judge.metrics import ServiceLog, summarise
from loadgen.judge.results import RequestRecord, Run
from loadgen.mock.engine import EngineSettings, Event, Generation, Peaks
from loadgen.workloads.traces import LoadgenError

NO_PEAKS = Peaks()
WORK = ("arrival", "input", "output", "end", "abort")


class ServiceLogError(LoadgenError):
    """A service log that cannot be used; the message names file and line."""


class ServiceLogWriter:
    """Appends to a log file; each `write` is one write to the system. Raises OSError."""

    def __init__(self, path: Path, settings: EngineSettings, now: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
        self._file = path.open("ab", buffering=0)
        self._arrivals: list[str] = []
        names = ("model", "slots", "kv_tokens", "step_s")
        start = {"t": now, "event": "start", **{name: getattr(settings, name) for name in names}}
        self._file.write(b"\n" * torn + json.dumps(start).encode() + b"\n")

    def arrived(self, now: float, generation: Generation) -> None:
        """Goes out with the next `write`."""
        self._arrivals.append(_line(now, Event("arrival", generation, generation.input_tokens)))

    def write(self, now: float, events: Iterable[Event], peaks: Peaks | None = None) -> None:
        """What one step did, and its peaks where they rose."""
        lines = [*self._arrivals, *(_line(now, event) for event in events)]
        self._arrivals.clear()
        if peaks is not None:
            lines.append(json.dumps({"t": now, "event": "peak", **peaks._asdict()}) + "\n")
        if lines:
            self._file.write("".join(lines).encode())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _line(now: float, event: Event) -> str:
    who = f'"tenant": {json.dumps(event.generation.tenant)}, "id": {json.dumps(event.generation.id)}'
    return f'{{"t": {now!r}, "event": "{event.kind}", {who}, "tokens": {event.tokens}}}\n'


class Served(NamedTuple):
    """One line of work. `engine` is the log it stands in."""

    t: float
    engine: Path
    event: str
    tenant: str
    id: str
    tokens: int


@dataclass(slots=True)
class EngineLog:
    """One engine over all its starts: its size, and the most it was ever given (`Peaks`)."""

    slots: int = 0
    kv_tokens: int = 0
    step_s: float = 0.0
    starts: int = 0
    peaks: Peaks = NO_PEAKS


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

    def service_log(self, cost: CostFunction, zero: float = 0.0) -> ServiceLog:
        """Service as it happened, from Unix time `zero` on, in seconds since then."""
        log = ServiceLog()
        runs: dict[tuple[Path, str], tuple[int, int, float]] = {}  # (input, output, service) so far
        for t, engine, event, tenant, name, tokens in self.served:
            if event not in ("input", "output"):
                continue
            n_in, n_out, before = runs.get((engine, name), (0, 0, 0.0)) if event == "output" else (0, 0, 0.0)
            n_in, n_out = (n_in, n_out + tokens) if event == "output" else (tokens, 0)
            now = cost.service(n_in, n_out)
            runs[engine, name] = n_in, n_out, now
            if t >= zero:
                log.add(t - zero, tenant, now - before, tokens)
        return log

    def service(self, cost: CostFunction, start: float = -inf, end: float = inf) -> dict[str, float]:
        """Each tenant's service over [start, end) of Unix time; every tenant of the log, in order of names."""
        received = dict.fromkeys(sorted({line.tenant for line in self.served}), 0.0)
        log = self.service_log(cost)
        for t, tenant, service in zip(log.times_s, log.tenants, log.service, strict=True):
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
    """All logs as one. A line that a kill tore is left out. Raises ServiceLogError for any other that is malformed,
    and for a file that cannot be read or does not begin with a start."""
    engines: dict[Path, EngineLog] = {}
    served: list[Served] = []
    for path in paths:
        engines[path] = engine = EngineLog()
        for number, line in _lines(path):
            _read(engine, served, line, path, f"service log {path}, line {number}")
    served.sort(key=lambda line: line.t)
    return EngineRecord(engines, tuple(served))


def _lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        raw = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise ServiceLogError(f"service log {path}: cannot be read ({error})") from None
    parsed = [_parse(line) for line in raw]
    lines = []
    for i, line in enumerate(parsed):
        torn = i + 1 == len(parsed) or (parsed[i + 1] or {}).get("event") == "start"
        if line is None and not torn:
            raise ServiceLogError(f"service log {path}, line {i + 1}: {raw[i][:80]!r}; expected a JSON object")
        if line is not None:
            lines.append((i + 1, line))
    return lines


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and line.endswith(b"\n") else None


def _read(engine: EngineLog, served: list[Served], line: dict[str, Any], path: Path, where: str) -> None:
    try:
        t, event = float(line.pop("t")), str(line.pop("event"))
        if event == "start":
            engine.slots, engine.kv_tokens, engine.step_s = line["slots"], line["kv_tokens"], line["step_s"]
            engine.starts += 1
        elif not engine.starts:
            raise ServiceLogError(f"{where}: {event!r} before any start; expected a start first")
        elif event == "peak":
            engine.peaks = engine.peaks.highest(Peaks(**line))
        elif event in WORK:
            served.append(Served(t, path, event, str(line["tenant"]), str(line["id"]), int(line["tokens"])))
        else:
            raise ServiceLogError(f"{where}: event {event!r}; expected start, peak, {', '.join(WORK)}")
    except ServiceLogError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ServiceLogError(f"{where}: {error}; expected the members that its event has") from None


def judge(
    policy: str, load: LoadRecord, engines: EngineRecord, cost: CostFunction, weights: Mapping[str, float]
) -> Run:
    """The figures of a live run by the one set of definitions (`loadgen.judge.metrics`): service as the engines'
    logs have it, and a request waits while it did so for certain, so that a gap over the bound is none of the clients'
    making.
    `loadgen.judge.measure.saturation` says whether the shares mean anything.

    Raises ServiceLogError when an engine served a tenant that sent nothing.
    """
    log = engines.service_log(cost, load.started_at)
    if strangers := sorted(set(log.tenants) - set(load.tenants())):
        raise ServiceLogError(f"engines served {strangers[0]!r}, who sent nothing here; expected only tenants that did")
    work = engines.requests()
    records = [
        _certain(record, exchange, [t - load.started_at for t in _arrivals(work, exchange)])
        for record, exchange in zip(request_records(load), load.exchanges, strict=True)
    ]
    return summarise(policy, records, log, cost, weights)


def _arrivals(work: Mapping[str, Work], exchange: Exchange) -> list[float]:
    known = work.get(exchange.request_id)
    return known.arrivals if known else []


def _certain(record: RequestRecord, exchange: Exchange, arrivals: Sequence[float]) -> RequestRecord:
    """The request waits from the latest moment at which it can have reached the gateway, which is when it came to the
    engine less its time in the queue, to the earliest at which its turn can have come, which is when it was sent plus
    that time. One that never came to an engine waits from when it was sent."""
    if not arrivals:
        return replace(record, arrival_s=max(record.arrival_s, exchange.sent_s))
    if exchange.queue_s is None or len(arrivals) > 1:  # when its turn came is not known
        return replace(record, arrival_s=exchange.sent_s, dispatched_s=exchange.sent_s)
    began = max(exchange.sent_s, arrivals[0] - exchange.queue_s)
    return replace(record, arrival_s=began, dispatched_s=max(began, exchange.sent_s + exchange.queue_s))
