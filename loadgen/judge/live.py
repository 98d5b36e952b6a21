"""A live run as the same `Run` that a simulation gives: by what its clients saw (`measure`), or by the engines' logs of
who was served when (`judge`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fairness import CostFunction
from loadgen.client.record import Ending, Exchange, LoadRecord
from loadgen.judge.engines import EngineRecord, Work
from loadgen.judge.metrics import ServiceEvents, summarise
from loadgen.judge.results import Outcome, RequestRecord, Run
from loadgen.service_log import ServiceLogError

OUTCOMES = {
    Ending.FINISHED: Outcome.FINISHED,
    Ending.REJECTED: Outcome.REJECTED,
    Ending.ABORTED: Outcome.ABORTED,
    Ending.FAILED: Outcome.ABORTED,
}


def measure(policy: str, record: LoadRecord, cost: CostFunction, weights: Mapping[str, float]) -> Run:
    """The figures of a live run, by the same definitions as a simulated one (DESIGN section 8).

    A request that failed counts as aborted, its code as the reason. The input is served when the first token comes.
    """
    events = ServiceEvents()
    for exchange in record.exchanges:
        _receive(exchange, cost, events)
    return summarise(policy, request_records(record), events, cost, weights)


def request_records(record: LoadRecord) -> list[RequestRecord]:
    """The requests of a live run as those of any run; each one's id is its place in the order of arrival, from 0."""
    return [_request(i, exchange) for i, exchange in enumerate(record.exchanges)]


def _receive(exchange: Exchange, cost: CostFunction, events: ServiceEvents) -> None:
    served, tokens, n_in = 0.0, -exchange.input_tokens, exchange.input_tokens
    for time_s, produced in zip(exchange.times_s, exchange.counts, strict=True):
        service = cost.service(n_in, produced)
        events.add(time_s, exchange.tenant, service - served, produced - tokens)
        served, tokens = service, produced


def _request(number: int, exchange: Exchange) -> RequestRecord:
    rejected = exchange.ending is Ending.REJECTED
    unserved = exchange.first_token_s is None
    return RequestRecord(
        id=str(number),
        tenant=exchange.tenant,
        input_tokens=exchange.input_tokens or exchange.wanted_input_tokens,
        output_tokens=exchange.wanted_output_tokens if unserved else exchange.output_tokens,
        arrival_s=exchange.arrival_s,
        outcome=OUTCOMES[exchange.ending],
        dispatched_s=exchange.dispatched_s,
        first_token_s=exchange.first_token_s,
        finish_s=None if rejected else exchange.end_s,
        reason=exchange.code,
    )


# -- with the engines' logs -------------------------------------------------------------------------------------------


def judge(
    policy: str, load: LoadRecord, engines: EngineRecord, cost: CostFunction, weights: Mapping[str, float]
) -> Run:
    """The figures of a live run by the one set of definitions (`loadgen.judge.metrics`): service as the engines'
    logs have it, and a request waits while it did so for certain, so that a gap over the bound is none of the clients'
    making. `loadgen.judge.saturation` says whether the shares mean anything.

    Raises ServiceLogError when an engine served a tenant that sent nothing.
    """
    events = engines.service_events(cost, load.started_at)
    if strangers := sorted(set(events.tenants) - set(load.tenants())):
        raise ServiceLogError(f"engines served {strangers[0]!r}, who sent nothing here; expected only tenants that did")
    work = engines.requests()
    records = [
        _certain(record, exchange, [t - load.started_at for t in _arrivals(work, exchange)])
        for record, exchange in zip(request_records(load), load.exchanges, strict=True)
    ]
    return summarise(policy, records, events, cost, weights)


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
