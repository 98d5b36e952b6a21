"""One machine, written twice: random operations of several replicas give the same decisions and the same state in
Python and in Lua. On every kind of server that is to be had."""

from __future__ import annotations

from itertools import count
from typing import Any

import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairgate.topology.stores import find_servers
from fairness import State

from .calls import REPLICAS, TENANTS, WORKERS, Setup
from .twin import Twin

SERVERS = find_servers()
_names = count()
Draw = tuple[int, int, int, int]


def test_some_server_is_there() -> None:
    assert SERVERS, "neither redis-server nor the Valkey of the dev extra was found"


SETUPS = st.builds(
    Setup,
    policy=st.sampled_from(["vtc", "vtc", "vtc", "fcfs", "lcf", "rpm:6", "rr", "drr:100"]),
    cost=st.sampled_from(["weighted:1,2", "weighted:input=1.3,output=0.7,cached_input=0.1", "profiled", "piecewise"]),
    predict=st.sampled_from(["none", "max_tokens", "ewma", "mean:3", "quantile:0.9"]),
)
DRAWS = st.lists(
    st.tuples(st.integers(0, 99), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6)),
    min_size=200,
    max_size=230,
)


DEPTH = max(1, settings().max_examples // 60)  # 50 where HYPOTHESIS_PROFILE=deep


@settings(
    max_examples=25 * DEPTH,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
@given(setup=SETUPS, draws=DRAWS, flat=st.booleans())
def test_the_same_operations_give_the_same_decisions_and_state(
    client: redis.Redis, setup: Setup, draws: list[Draw], flat: bool
) -> None:
    twin = Twin(client, f"p{next(_names)}", setup)
    tenants = TENANTS[:3] if flat else TENANTS
    drive(twin, draws, tenants)


FLAT = TENANTS[:3]
PLAIN = st.builds(
    Setup,
    policy=st.sampled_from(["vtc", "fcfs", "lcf"]),
    cost=st.sampled_from(["weighted:1,2", "profiled"]),
    predict=st.sampled_from(["none", "max_tokens"]),
)
SOME = st.lists(
    st.tuples(st.integers(0, 94), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6)),
    min_size=30,
    max_size=40,
)
FEW = settings(max_examples=12 * DEPTH, deadline=None, suppress_health_check=list(HealthCheck))


@FEW
@given(setup=PLAIN, rounds=st.lists(SOME, min_size=3, max_size=4), who=st.sampled_from(REPLICAS))
def test_a_replica_that_joins_again_tells_nothing_new(
    client: redis.Redis, setup: Setup, rounds: list[list[Draw]], who: str
) -> None:
    twin = Twin(client, f"j{next(_names)}", setup)
    for draws in rounds:
        drive(twin, draws, FLAT)
        twin.rejoin(who)
        twin.compare()


@FEW
@given(setup=PLAIN, rounds=st.lists(SOME, min_size=3, max_size=4), order=st.permutations(REPLICAS), stale=st.booleans())
def test_a_store_that_forgot_decides_as_if_it_had_not(
    client: redis.Redis, setup: Setup, rounds: list[list[Draw]], order: list[str], stale: bool
) -> None:
    """Empty, or as it was a while ago: when all replicas have joined, every counter, place and reservation is as
    before, and so is every later decision. (In a tree of shares ties between groups may fall otherwise.)"""
    twin = Twin(client, f"f{next(_names)}", setup)
    for draws in rounds:
        drive(twin, draws, FLAT)
        copy = twin.store.copy() if stale else {}
        for replica in REPLICAS:  # the queue is not empty, and all have been answered since
            twin.batch(replica, [("submit", f"t{next(_names)}", FLAT[0], 5, 5)])
        drive(twin, draws[:15], FLAT)
        if twin.scheduler.queue_length():
            twin.forget(copy, order)


def drive(twin: Twin, draws: list[Draw], tenants: list[str]) -> None:
    """Batches of up to three operations, each by one replica; some are sent twice."""
    pending = list(draws)
    while pending:
        size = 1 + pending[0][3] % 3
        some, pending = pending[:size], pending[size:]
        replica = REPLICAS[some[0][1] % len(REPLICAS)]
        operations: list[tuple[Any, ...]] = []
        used: set[str] = set()
        for draw in some:
            operation = operation_of(twin, replica, draw, tenants)
            if operation[0] == "submit" or operation[1] not in used:
                used.add(operation[1])
                operations.append(operation)
        twin.batch(replica, operations, repeat=some[0][2] % 7 == 0)


def operation_of(twin: Twin, replica: str, draw: Draw, tenants: list[str]) -> tuple[Any, ...]:
    kind, x, y, z = draw
    running = twin.live(replica, State.RUNNING)
    if kind < 40 or (kind < 95 and not twin.live(replica, State.RUNNING, State.WAITING)):
        return ("submit", f"t{next(_names)}", tenants[x % len(tenants)], 1 + y % 400, 1 + z % 120)
    if kind >= 95:
        return worker_report(kind, x, y)
    if kind < 65 and running:
        ticket = running[x % len(running)]
        n_in = ticket.input_tokens if y % 3 else max(1, ticket.input_tokens + y % 21 - 10)
        cached = ticket.cached_tokens if z % 4 else max(ticket.cached_tokens, z % (n_in + 1))
        return ("charge", ticket.id, n_in, min(cached, n_in), ticket.produced + z % 9)
    if kind < 80 and running:
        ticket = running[x % len(running)]
        return ("finish", ticket.id, ticket.input_tokens, ticket.cached_tokens, ticket.produced + y % 5)
    if kind < 84 and running:
        return ("requeue", running[x % len(running)].id, [list(WORKERS)[y % 2]] if z % 2 else [])
    some = twin.live(replica, State.RUNNING, State.WAITING)
    ticket = some[x % len(some)]
    if kind < 88:
        return ("undo", ticket.id)
    return ("cancel", ticket.id, ticket.input_tokens, ticket.cached_tokens, ticket.produced)


def worker_report(kind: int, x: int, y: int) -> tuple[Any, ...]:
    name = list(WORKERS)[x % 2]
    if kind < 98:
        return ("worker", name, {"healthy": bool(y % 3), "ttl_ms": 3_600_000})
    slots, tokens = WORKERS[name]
    return ("worker", name, {"slots": slots + y % 2, "tokens": tokens - 200 * (y % 3)})
