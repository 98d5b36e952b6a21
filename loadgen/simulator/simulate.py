"""A discrete-event simulation: the production scheduler in front of a model of a continuous-batching engine.

The loop is that of the VTC artifact (DESIGN section 8). While nothing runs, every look at the queue may admit;
otherwise at least ten decode steps pass after an admission, and then every step begins with a try. An admission
takes heads in policy order until one does not fit and prefills them together, which yields their first token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from fairness import CostFunction, Grant, Refusal, Scheduler, Ticket, parse_cost, parse_policy
from loadgen.judge.metrics import summarise
from loadgen.judge.results import Comparison, Outcome, RequestRecord, Run
from loadgen.simulator.engine import IDLE_SLEEP_S, MIN_DECODE_STEPS, EngineConfig, EngineRoom, parse_engine
from loadgen.simulator.meter import StepMeter
from loadgen.simulator.predict import check_predict, parse_predict
from loadgen.workloads.catalogue import Workload, load_workload
from loadgen.workloads.traces import LoadgenError, Request
from loadgen.workloads.weights import read_weights

Progress = Callable[[str, float], None]  # (policy, part of its requests that have ended)


@dataclass(slots=True)
class _Running:
    ticket: Ticket
    output_tokens: int
    dispatched_s: float
    first_token_s: float = 0.0
    first_step: int = 0  # its first decode step: it yields a token in this one and in every later one


class Simulation:
    """One workload under one policy, run to the end of the drain by `run`."""

    def __init__(
        self,
        workload: Workload,
        policy: str,
        *,
        cost: CostFunction,
        weights: Mapping[str, float],
        engine: EngineConfig,
        predict: str = "none",
        seed: int = 0,
    ) -> None:
        self._arrivals = workload.requests
        self._next = 0
        self._engine = engine
        self._cost = cost
        self._weights = weights
        self._meter = StepMeter(cost)
        self._policy = parse_policy(policy)
        self._output_tokens: dict[Ticket, int] = {}
        self._room = EngineRoom(engine, self._output_tokens)
        predictor = parse_predict(predict, self._output_tokens, seed)
        self.scheduler = Scheduler(self._policy, cost, self._room, weights=weights, predictor=predictor)
        self._arrived_s: dict[Ticket, float] = {}
        self._running: dict[Ticket, _Running] = {}
        self._ends: dict[int, list[_Running]] = {}  # by the number of decode steps after which they end
        self._now = 0.0
        self._admitted = 0  # the decode steps at the last admission
        self._reported = 0  # the decode steps that the scheduler knows of
        self._records: list[RequestRecord] = []

    def run(self, progress: Progress | None = None) -> Run:
        """Serve every request. Deterministic."""
        reported = 0
        self._advance(0.0)
        while len(self._records) < len(self._arrivals):
            self._step()
            if progress and len(self._records) - reported >= 50:
                reported = len(self._records)
                progress(self._policy.spec, reported / len(self._arrivals))
        if progress:
            progress(self._policy.spec, 1.0)
        return summarise(self._policy.spec, self._records, self._meter.log(), self._cost, self._weights)

    def _step(self) -> None:
        may_admit = not self._running or self._meter.steps - self._admitted >= MIN_DECODE_STEPS
        if may_admit and self._admit():
            return
        if self._running:
            self._decode()
        else:
            self._idle()

    def _admit(self) -> bool:
        self._report()
        self._room.begin_minibatch()
        minibatch = [self._start(grant) for grant in iter(self.scheduler.pick, None)]
        if not minibatch:
            return False
        self._advance(self._engine.prefill_s(sum(running.ticket.input_tokens for running in minibatch)))
        for running in minibatch:
            self._prefilled(running)
        self._admitted = self._meter.steps
        self._end()
        return True

    def _start(self, grant: Grant) -> _Running:
        return _Running(grant.ticket, self._output_tokens[grant.ticket], self._now)

    def _prefilled(self, running: _Running) -> None:
        running.first_token_s, running.first_step = self._now, self._meter.steps
        self.scheduler.charge(running.ticket, 1)
        self._running[running.ticket] = running
        self._ends.setdefault(self._meter.steps + running.output_tokens - 1, []).append(running)

    def _decode(self) -> None:
        self._advance(self._engine.decode_s(len(self._running)))
        self._meter.step(self._now)
        self._end()

    def _report(self) -> None:
        """Charge what was produced. Due before whatever reads a counter, and not before."""
        if self._reported == self._meter.steps:
            return
        self._reported = self._meter.steps
        for ticket, running in self._running.items():
            self.scheduler.charge(ticket, 1 + self._reported - running.first_step)

    def _idle(self) -> None:
        """Sleep, in whole naps, until the next arrival."""
        wait = self._arrivals[self._next].t_s - self._now
        self._advance(max(1, ceil(wait / IDLE_SLEEP_S)) * IDLE_SLEEP_S)

    def _advance(self, seconds: float) -> None:
        self._now += seconds
        while self._next < len(self._arrivals) and self._arrivals[self._next].t_s <= self._now:
            self._report()
            self._submit(self._arrivals[self._next])
            self._next += 1

    def _submit(self, request: Request) -> None:
        name = f"{request.tenant}-{self._next + 1}"
        ticket = Ticket(name, request.tenant, request.input_tokens, self._engine.pool_tokens)
        self._output_tokens[ticket] = request.output_tokens
        refusal = self._too_large(request) or self.scheduler.submit(ticket, request.t_s)
        if refusal:
            self._records.append(_rejected(ticket, request, refusal))
            del self._output_tokens[ticket]
        else:
            self._arrived_s[ticket] = request.t_s

    def _too_large(self, request: Request) -> Refusal | None:
        if not self._engine.too_large(request.input_tokens, request.output_tokens):
            return None
        return Refusal("too_large", f"{request.input_tokens} + {request.output_tokens} tokens exceed the pool")

    def _end(self) -> None:
        """Finish the requests whose last token the step that just ended produced."""
        for running in self._ends.pop(self._meter.steps, ()):
            self._finish(running)

    def _finish(self, running: _Running) -> None:
        ticket = running.ticket
        self.scheduler.charge(ticket, running.output_tokens)
        self.scheduler.finish(ticket)
        del self._running[ticket], self._output_tokens[ticket]
        self._meter.served(
            ticket.tenant, ticket.input_tokens, ticket.produced, running.first_token_s, running.first_step
        )
        self._records.append(
            RequestRecord(
                ticket.id,
                ticket.tenant,
                ticket.input_tokens,
                ticket.produced,
                self._arrived_s.pop(ticket),
                Outcome.FINISHED,
                running.dispatched_s,
                running.first_token_s,
                self._now,
            )
        )


def _rejected(ticket: Ticket, request: Request, refusal: Refusal) -> RequestRecord:
    return RequestRecord(
        ticket.id,
        ticket.tenant,
        request.input_tokens,
        request.output_tokens,
        request.t_s,
        Outcome.REJECTED,
        reason=refusal.reason,
    )


def simulate(
    workload: str,
    policies: Iterable[str],
    *,
    weights: str | Path | Mapping[str, float] | None = None,
    cost: str | Mapping[str, object] = "weighted",
    predict: str = "none",
    engine: str = "a10g-7b",
    time_scale: float = 1.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Run `workload` (a name or a trace file) under each policy.

    `weights` is a file (see `loadgen.workloads.weights`) or a mapping; without it, those of the workload. `time_scale`
    above 1 stretches the arrivals. `seed` jitters them by up to 50 ms; 0: none. `predict` is none, ewma, oracle, or the
    noise of an oracle. Everything is checked before the first run starts.

    Raises ValueError (LoadgenError, CostError) that names the offending part and the accepted forms.
    """
    if not (0 < time_scale < float("inf")):
        raise LoadgenError(f"time scale {time_scale!r}: expected a finite number above 0")
    specs = [spec.strip() for spec in policies]
    if not specs:
        raise LoadgenError("no policy; expected at least one, like vtc")
    for spec in specs:
        parse_policy(spec)
    check_predict(predict)
    cost_function, config = parse_cost(cost), parse_engine(engine)
    load = load_workload(workload).stretched(time_scale).jittered(seed)
    weight = _weights(weights, load)
    runs = []
    for spec in specs:
        simulation = Simulation(
            load, spec, cost=cost_function, weights=weight, engine=config, predict=predict, seed=seed
        )
        runs.append(simulation.run(progress))
    settings = {"cost": str(cost), "predict": predict, "engine": engine, "time scale": f"{time_scale:g}"}
    return Comparison(
        load.name, seed, service_bound(cost_function, config, weight, load.tenants), tuple(runs), weight, settings
    )


def service_bound(
    cost: CostFunction, engine: EngineConfig, weights: Mapping[str, float], tenants: Iterable[str]
) -> float:
    """2U / min(w) over the tenants of the workload (OSDI'24, section 4), in service units over weight. M is the
    pool; `loadgen.simulator.engine` says what that leaves out."""
    pool = engine.pool_tokens
    return 2 * cost.most_rise(pool, pool, pool) / min(weights.get(tenant, 1.0) for tenant in tenants)


def _weights(weights: str | Path | Mapping[str, float] | None, load: Workload) -> dict[str, float]:
    if weights is None:
        return dict(load.weights)
    if isinstance(weights, str | Path):
        return read_weights(Path(weights), load.tenants)
    return dict(weights)
