"""Every policy, cost function and predictor that configuration can name describes itself."""

from __future__ import annotations

import json

import pytest

from fairness import Scheduler, Ticket, Weighted, Worker, WorkerRoom, parse_cost, parse_policy, parse_predictor
from fairness.cost import COSTS
from fairness.policies import POLICIES, Policy
from fairness.predict import PREDICTORS

NUMBERS = {"=S": "=40.0625", ":LIMIT": ":20", ":QUANTUM": ":500", ":AGING": ":16"}


def example(form: str) -> str:
    for name, number in NUMBERS.items():
        form = form.replace(name, number)
    return form


SPECS = [example(form) for policy in POLICIES.values() for form in policy.forms]


@pytest.mark.parametrize("kind", POLICIES)
def test_a_policy_has_forms_and_a_help(kind: str) -> None:
    policy = POLICIES[kind]
    assert policy.forms
    assert policy.help
    for form in policy.forms:
        assert type(parse_policy(example(form))) is policy
        with pytest.raises(ValueError, match="expected one of") as refused:
            parse_policy("unknown")
        assert form in str(refused.value)


@pytest.mark.parametrize("spec", SPECS)
def test_a_policy_is_made_again_of_its_spec(spec: str) -> None:
    policy = parse_policy(spec)
    again = parse_policy(policy.spec)
    assert policy.spec == again.spec == spec
    assert (type(again), again.wire(), again.allowance, again.aging) == (
        type(policy),
        policy.wire(),
        policy.allowance,
        policy.aging,
    )


@pytest.mark.parametrize("spec", SPECS)
def test_a_policy_has_a_wire_form_or_says_why_not(spec: str) -> None:
    policy = parse_policy(spec)
    told = json.loads(json.dumps(policy.wire()))
    assert parse_policy(told["name"]).wire() == told
    described = bool(policy.slack or policy.aging)  # the wire has no word for these
    assert bool(policy.not_shared) == described
    assert not described or "expected" in policy.not_shared


@pytest.mark.parametrize("spec", ["vtc:slack=0.1", "vtc:slack=1234567.5", "vtc:slack=1e+16"])
def test_no_digit_of_a_slack_is_lost(spec: str) -> None:
    assert parse_policy(spec).spec == spec


def test_without_slack_it_is_plain_vtc() -> None:
    assert (parse_policy("vtc:slack=0").spec, parse_policy("vtc:slack=0").not_shared) == ("vtc", "")


def test_what_a_policy_is_to_gateways_that_go_on_alone() -> None:
    for spec in SPECS:
        policy = parse_policy(spec)
        assert policy.unlimited().wire() == {**policy.wire(), "rpm": 0, "name": policy.unlimited().spec}
    assert parse_policy("rpm:20").unlimited().spec == "fcfs"
    assert [parse_policy("rpm:20").part(parts).spec for parts in (1, 3, 40)] == ["rpm:20", "rpm:7", "rpm:1"]
    assert parse_policy("drr:500").part(3).spec == "drr:500"


def gap_in_service(policy: Policy) -> tuple[float, float]:
    """a was served alone for long. Then a queues 100 requests of 100 service units each, b after it 100 of 10 each.
    The largest difference of what both receive while both wait, and the bound."""
    scheduler = Scheduler(policy, Weighted(), WorkerRoom([Worker("w", 1, 60)]))
    now = 0.0

    def submit(tenant: str, n_in: int, n_out: int) -> None:
        nonlocal now
        now += 10.0
        assert scheduler.submit(Ticket(tenant, tenant, n_in, n_out), now) is None

    def serve() -> tuple[str, float]:
        grant = scheduler.pick()
        assert grant is not None
        scheduler.charge(grant.ticket, grant.ticket.max_tokens)
        scheduler.finish(grant.ticket)
        return grant.ticket.tenant, grant.ticket.input_tokens + 2 * grant.ticket.max_tokens

    for _ in range(100):
        submit("a", 10, 45)
        serve()
    for tenant, n_in, n_out in [("a", 10, 45)] * 100 + [("b", 2, 4)] * 100:
        submit(tenant, n_in, n_out)
    difference, most, least = 0.0, 0.0, 0.0
    while scheduler.queue_length("a") and scheduler.queue_length("b"):
        tenant, service = serve()
        difference += service if tenant == "a" else -service
        most, least = max(most, difference), min(least, difference)
    return most - least, scheduler.bound()


@pytest.mark.parametrize("spec", SPECS)
def test_a_policy_holds_the_bound_if_and_only_if_it_promises_one(spec: str) -> None:
    gap, bound = gap_in_service(parse_policy(spec))
    assert (gap <= 2 * bound) == parse_policy(spec).bounded


# -- costs ---------------------------------------------------------------------------------------------------------

LINES = {"input": [[0, 0], [9, 5]], "output": [[0, 1], [4, 9]]}


@pytest.mark.parametrize("kind", COSTS)
def test_a_cost_is_made_again_of_its_spec_and_of_its_wire_form(kind: str) -> None:
    cost = parse_cost({"kind": kind, **(LINES if kind == "piecewise" else {})})
    assert cost.help
    assert parse_cost(cost.spec) == cost
    told = json.loads(json.dumps(cost.wire()))
    assert None not in told.values()
    assert parse_cost(told).wire() == cost.wire()
    for tokens in ((0, 0, 0), (100, 0, 0), (100, 7, 30), (3, 900, 3)):
        assert parse_cost(told).service(*tokens) == cost.service(*tokens)


def test_a_price_for_cached_input_is_kept() -> None:
    cost = parse_cost("weighted:1,2,0.1")
    assert parse_cost(cost.spec) == cost == parse_cost(cost.wire())


# -- predictors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PREDICTORS)
def test_a_predictor_is_made_again_of_its_spec_and_of_its_wire_form(kind: str) -> None:
    form = PREDICTORS[kind].form
    spec = form.replace("K like mean:5", "8").replace("Q like 0.9", "0.75")
    predictor = parse_predictor(spec)
    assert PREDICTORS[kind].help
    assert predictor.spec == spec
    told = json.loads(json.dumps(predictor.wire()))
    for again in (parse_predictor(predictor.spec), parse_predictor(told)):
        assert (type(again), again.wire()) == (PREDICTORS[kind], told)
    with pytest.raises(ValueError, match="expected none") as refused:
        parse_predictor("unknown")
    assert form in str(refused.value)
