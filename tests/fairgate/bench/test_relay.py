"""The benchmark of the gateway against a bare relay: both do the work. No test depends on speed."""

import sys

import pytest
from typer.testing import CliRunner

from fairgate import cli
from fairgate.bench import relay
from fairgate.bench.relay import Cost, RelayFound, RelayPlan, bench_relay, cost_of, markdown, serving, start_engine
from fairgate.errors import ProcessError

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="processor time of others needs clock_getcpuclockid(3)")


@LINUX
def test_gateway_and_relay_are_measured_with_one_tenant_and_with_many():
    for tenants in (1, 20):
        found = bench_relay(RelayPlan(rounds=1, tenants=tenants, requests=2))
        assert {name: len(costs) for name, costs in found.costs.items()} == {"relay": 1, "gateway": 1}
        assert all(cost.request > 0 for costs in found.costs.values() for cost in costs)


@LINUX
def test_a_wrong_answer_ends_it(monkeypatch):
    monkeypatch.setattr(relay, "EVENT", b"no event has this in it")
    with serving(start_engine) as engine, pytest.raises(ProcessError, match="one has 0 events; expected 1"):
        cost_of(engine, 1, 1)


def test_the_table_shows_medians_and_their_ratio():
    costs = {"gateway": [Cost(300.0, 60.0), Cost(900.0, 90.0), Cost(400.0, 80.0)], "relay": [Cost(200.0, 40.0)]}
    told = markdown(RelayFound(costs))
    assert "| per request | 400.0 | 200.0 | 2.00 |" in told
    assert "| per event | 80.0 | 40.0 | 2.00 |" in told


def test_every_benchmark_is_a_command_and_explains_itself():
    listed = CliRunner().invoke(cli.app, ["bench", "--help"]).output
    for name in ("scheduler", "shared", "relay", "kernels", "lora"):
        assert name in listed
        assert CliRunner().invoke(cli.app, ["bench", name, "--help"]).exit_code == 0
