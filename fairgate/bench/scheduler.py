"""How fast the scheduler is, and how much it holds: full request cycles through the production object.

A cycle is submit, pick, ten separate charges of one output token, finish. Cost function, tree of shares (ids of two
levels) and auditor are on; the integrity check is not. `known` tenants have been seen; `waiting` of them have a
request in the queue at every moment. Time is processor time, so that a busy machine does not blur it much.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count, cycle
from time import perf_counter, process_time
from typing import NamedTuple

from fairgate.bench.rounds import table
from fairness import Auditor, Crossing, Scheduler, Ticket, Weighted, Worker, WorkerRoom, parse_policy

OUTPUTS = 10
INPUT = 100
CASES = ((10, 10), (1_000, 10), (1_000, 1_000), (100_000, 10), (100_000, 100_000), (1_000_000, 10))
CASES_LARGE = (*CASES, (1_000_000, 1_000_000))

Progress = Callable[[str], None]


class Speed(NamedTuple):
    """`cycles_per_s` is the best of several rounds; `us_per_cycle` its reciprocal."""

    known: int
    waiting: int
    cycles_per_s: float
    us_per_cycle: float


class Memory(NamedTuple):
    """Bytes held for each tenant that waits with one request, and for each further request of a tenant (the ticket
    itself included in both)."""

    per_waiting_tenant: float
    per_waiting_request: float


def bench_speed(
    known: int, waiting: int, *, rounds: int = 5, round_s: float = 0.4, tree: bool = True, audit: bool = True
) -> Speed:
    """Cycles a second with `known` tenants seen and `waiting` of them in the queue."""
    scheduler = _scheduler(audit)
    tenants = [_tenant(i, known, tree) for i in range(known)]
    _visit(scheduler, tenants)
    arrivals = _fill(scheduler, tenants, waiting)
    gc.collect()
    gc.freeze()
    best = max(_round(scheduler, arrivals, round_s) for _ in range(rounds))
    gc.unfreeze()
    scheduler.check_integrity()
    return Speed(known, waiting, best, 1e6 / best)


def bench_memory(number: int = 20_000, *, tree: bool = True) -> Memory:
    """Traced over `number` tenants with a request each, and over `number` requests of one tenant."""
    many = _traced(lambda scheduler: _submit_all(scheduler, (_tenant(i, number, tree) for i in range(number))))
    one = _traced(lambda scheduler: _submit_all(scheduler, ("only" for _ in range(number))))
    return Memory(many / number, one / number)


def bench_scheduler(progress: Progress | None = None, *, large: bool = False) -> tuple[list[Speed], Memory]:
    """Every case; `large` adds a million tenants waiting, which takes a few GB."""
    speeds = []
    for known, waiting in CASES_LARGE if large else CASES:
        if progress:
            progress(f"{known:,} tenants, {waiting:,} waiting")
        speeds.append(bench_speed(known, waiting))
    if progress:
        progress("memory")
    return speeds, bench_memory()


def markdown(speeds: list[Speed], memory: Memory) -> str:
    """The figures as a table."""
    rows = [[f"{s.known:,}", f"{s.waiting:,}", f"{s.cycles_per_s:,.0f}", f"{s.us_per_cycle:.1f}"] for s in speeds]
    tenant, request = f"{memory.per_waiting_tenant:,.0f}", f"{memory.per_waiting_request:,.0f}"
    held = f"{tenant} bytes for a tenant that waits with one request, {request} bytes for each further request."
    return f"{table(['tenants known', 'waiting', 'cycles/s', 'us a cycle'], rows)}\n\n{held}"


# -- inside --------------------------------------------------------------------------------------------------------


def _scheduler(audit: bool) -> Scheduler:
    room = WorkerRoom([Worker("w", 4, 10_000)])
    auditor = Auditor(_alarmed, perf_counter) if audit else None
    return Scheduler(parse_policy("vtc"), Weighted(), room, auditor=auditor)


def _alarmed(crossing: Crossing) -> None:
    raise RuntimeError(f"the bound was crossed while it was measured: {crossing}")


def _tenant(i: int, known: int, tree: bool) -> str:
    """Organisations of about the square root of all."""
    return f"org{i % round(known**0.5)}/user{i}" if tree else f"user{i}"


def _ticket(tenant: str) -> Ticket:
    return Ticket("t", tenant, INPUT, OUTPUTS)


def _visit(scheduler: Scheduler, tenants: list[str]) -> None:
    """Every tenant comes once, and leaves."""
    for tenant in tenants:
        scheduler.submit(_ticket(tenant), 0.0)
        _serve(scheduler)


def _fill(scheduler: Scheduler, tenants: list[str], waiting: int) -> Iterator[str]:
    """`waiting` tenants wait; then each cycle brings the next that does not."""
    _submit_all(scheduler, iter(tenants[:waiting]))
    if waiting == len(tenants):
        return _served(scheduler)
    return cycle(tenants)


def _served(scheduler: Scheduler) -> Iterator[str]:
    """Whoever was served last comes again."""
    while True:
        yield _last_served[-1]


_last_served: deque[str] = deque(maxlen=1)


def _submit_all(scheduler: Scheduler, tenants: Iterator[str]) -> list[Ticket]:
    tickets = [_ticket(tenant) for tenant in tenants]
    for ticket in tickets:
        scheduler.submit(ticket, 0.0)
    return tickets


def _serve(scheduler: Scheduler) -> None:
    grant = scheduler.pick()
    if grant is None:
        raise RuntimeError("nothing to serve")
    ticket = grant.ticket
    for produced in range(1, OUTPUTS + 1):
        scheduler.charge(ticket, produced)
    scheduler.finish(ticket)
    _last_served.append(ticket.tenant)


def _round(scheduler: Scheduler, arrivals: Iterator[str], seconds: float) -> float:
    start = process_time()
    for done in count(1):
        _serve(scheduler)
        scheduler.submit(_ticket(next(arrivals)), 0.0)
        if done % 256 == 0 and (elapsed := process_time() - start) >= seconds:
            return done / elapsed
    raise AssertionError


def _traced(fill: Callable[[Scheduler], list[Ticket]]) -> float:
    scheduler = _scheduler(audit=True)
    gc.collect()
    tracemalloc.start()
    tickets = fill(scheduler)
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del tickets
    return float(held)
