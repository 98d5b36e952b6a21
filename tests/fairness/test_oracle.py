"""Measured shares against a fluid server that knows nothing of counters; each scenario has a control that must fail.

One worker serves one request at a time at one service unit a second, so that requests are large and few: the
margin in each scenario is 2 U / min w, what the law promises, and the control breaks it.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairness import Arrival, MaxTokens, Scheduler, Ticket, Weighted, Worker, WorkerRoom, fluid_service, parse_policy

from .plain import PLAIN_ONLY

# -- the oracle itself ---------------------------------------------------------------------------------------------


def test_the_oracle_by_hand() -> None:
    """a and b share from 2 s; at 6 s a's work is done, and b has the rest."""
    arrivals = [Arrival(0, "a", 40), Arrival(2, "b", 100)]
    assert fluid_service(arrivals, 10, {}, 0, 2) == {"a": 20, "b": 0}
    assert fluid_service(arrivals, 10, {}, 0, 6) == {"a": 40, "b": 20}
    assert fluid_service(arrivals, 10, {}, 0, 100) == {"a": 40, "b": 100}
    assert fluid_service(arrivals, 10, {}, 4, 8) == {"a": 10, "b": 30}
    assert fluid_service([Arrival(0, "a", 99), Arrival(0, "b", 99)], 8, {"a": 3}, 0, 10) == {"a": 60, "b": 20}
    assert fluid_service([Arrival(5, "late", 1)], 1, {}, 0, 5) == {"late": 0}


def test_the_oracle_wants_a_rate() -> None:
    with pytest.raises(ValueError, match="rate is 0"):
        fluid_service([], 0, {}, 0, 1)


works = st.lists(
    st.tuples(st.integers(0, 50), st.sampled_from("abc"), st.integers(1, 80)).map(lambda a: Arrival(*a)), max_size=15
)
weights = st.fixed_dictionaries({name: st.sampled_from((0.5, 1.0, 3.0)) for name in "abc"})


@given(works, weights, st.integers(1, 9))
def test_the_oracle_conserves_work_and_is_max_min(arrivals: list[Arrival], weight: dict[str, float], rate: int) -> None:
    received = fluid_service(arrivals, rate, weight, 0, 1e6)
    for tenant, service in received.items():
        assert service == pytest.approx(sum(a.service for a in arrivals if a.tenant == tenant))
    start = max((a.t_s for a in arrivals), default=0)
    early = fluid_service(arrivals, rate, weight, start, start + 1)
    left = {name: total - fluid_service(arrivals, rate, weight, 0, start + 1)[name] for name, total in received.items()}
    busy = [early[name] / weight[name] for name in early if left[name] > 1e-6]
    assert max(busy, default=0) - min(busy, default=0) < 1e-6, "those with work left received the same for their weight"
    if any(service > 1e-6 for service in left.values()):
        assert sum(early.values()) == pytest.approx(rate), "work conserving"


# -- the law against it --------------------------------------------------------------------------------------------

REQUEST = {"long": (100, 50), "short": (10, 5), "a": (40, 20), "b": (20, 30)}
SCENARIOS = {
    # name: (tenant: (requests a second, from, to), weights, [start, end), control that must fail)
    "overload": ({"a": (0.02, 0, 9000), "b": (0.06, 0, 9000)}, {}, (0, 9000), "fcfs"),
    "weighted": ({"a": (0.05, 0, 9000), "b": (0.05, 0, 9000)}, {"a": 3.0}, (0, 9000), "fcfs"),
    "lengths": ({"long": (0.02, 0, 9000), "short": (0.2, 0, 9000)}, {}, (0, 9000), "rr"),
    "light": ({"a": (0.003, 0, 9000), "b": (0.06, 0, 9000)}, {}, (0, 9000), "fcfs"),
    "late burst": ({"a": (0.02, 0, 12000), "b": (0.05, 6000, 12000)}, {}, (6000, 12000), "lcf"),
    "tree": ({"x/a": (0.1, 0, 9000), "x/b": (0.1, 0, 9000), "y/c": (0.05, 0, 9000)}, {}, (0, 9000), "flat"),
}


def arrivals_of(load: dict[str, tuple[float, int, int]]) -> list[tuple[float, str, int, int]]:
    coming = []
    for tenant, (rate, start, end) in load.items():
        n_in, n_out = REQUEST.get(tenant, (40, 20))
        coming += [(start + i / rate, tenant, n_in, n_out) for i in range(int((end - start) * rate))]
    return sorted(coming)


def measure(
    coming: list[tuple[float, str, int, int]], policy: str, weight: dict[str, float], window: tuple[int, int]
) -> tuple[dict[str, float], float]:
    """Service in the window when one request is served after the other, and the bound."""
    room = WorkerRoom([Worker("w", 1, 200)])
    scheduler = Scheduler(parse_policy(policy), Weighted(), room, weights=weight, predictor=MaxTokens())
    received = {tenant: 0.0 for _, tenant, _, _ in coming}
    now, index = 0.0, 0
    while now < window[1]:
        while index < len(coming) and coming[index][0] <= now:
            scheduler.submit(Ticket(str(index), *coming[index][1:]), now)
            index += 1
        grant = scheduler.pick()
        if grant is None:
            now = coming[index][0] if index < len(coming) else window[1]
            continue
        ticket = grant.ticket
        end = now + ticket.input_tokens + 2 * ticket.max_tokens
        received[ticket.tenant] += max(0.0, min(end, window[1]) - max(now, window[0]))
        scheduler.charge(ticket, ticket.max_tokens)
        scheduler.finish(ticket)
        now = end
    return received, scheduler.bound()


def furthest(name: str, policy: str) -> tuple[float, float]:
    load, weight, window, _ = SCENARIOS[name]
    coming = arrivals_of(load)
    fluid = [Arrival(t, tenant, n_in + 2 * n_out) for t, tenant, n_in, n_out in coming]
    fair = fluid_by_group(fluid, weight, window) if name == "tree" else fluid_service(fluid, 1.0, weight, *window)
    received, bound = measure(coming, policy, weight, window)
    return max(abs(received[tenant] - fair[tenant]) / weight.get(tenant, 1.0) for tenant in fair), 2 * bound


def fluid_by_group(fluid: list[Arrival], weight: dict[str, float], window: tuple[int, int]) -> dict[str, float]:
    """Both groups are overloaded throughout, so each is a server of half the rate for its members."""
    fair: dict[str, float] = {}
    for group in ("x/", "y/"):
        fair |= fluid_service([a for a in fluid if a.tenant.startswith(group)], 0.5, weight, *window)
    return fair


@pytest.mark.parametrize("name", SCENARIOS)
def test_vtc_gives_what_the_fluid_server_gives(name: str) -> None:
    distance, margin = furthest(name, "vtc")
    assert distance <= margin


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name != "tree"])
def test_the_control_does_not(name: str) -> None:
    distance, margin = furthest(name, SCENARIOS[name][3])
    assert distance > margin


@PLAIN_ONLY
def test_a_flat_queue_is_the_control_of_the_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairness.policies.base.Policy.tree", False)
    distance, margin = furthest("tree", "vtc")
    assert distance > margin
