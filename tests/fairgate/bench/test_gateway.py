"""`fairgate bench gateway`: that it counts what it says, of everyone who is there. How fast anything is, is not
tested."""

import shutil
import sys
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from fairgate import cli
from fairgate.bench import gateway as bench
from fairgate.bench.gateway import ALONE, BULK, LOADS, SHORT, STREAMS, GatewayFound, GatewayPlan, Window, bench_gateway
from fairgate.bench.gateway_native import Counted
from fairgate.bench.gateway_report import as_data, figures, markdown
from fairgate.bench.gateway_servers import (
    DIRECT,
    GATEWAY,
    LOGGED,
    NGINX,
    RELAY,
    ROUTER,
    Server,
    Setting,
    gateway_config,
    key_of,
    program,
    servers,
)
from fairgate.errors import ProcessError
from gateway.config.load import parse_config

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="pins processes and reads their processor time")


@pytest.fixture
def one_round(monkeypatch):
    monkeypatch.setattr(bench, "SETTLE_S", 0.05)
    return lambda known, **more: GatewayPlan(known, rounds=1, seconds=0.1, **more)


@LINUX
def test_everyone_is_measured_under_every_load(one_round, tmp_path):
    known = servers(shutil.which("nginx"), None)
    found = bench_gateway(one_round(known, tenants=3), tmp_path)
    names = {server.name for server in known}
    assert {RELAY, GATEWAY, LOGGED} <= names
    for load in LOADS:
        assert set(found.windows[load.name]) == names | ({DIRECT} if load is ALONE else set())
        for [window] in found.windows[load.name].values():
            assert window.cpu_s > 0 < (window.counted.events if load.stream else window.counted.answers)
    assert all(own["request_us"] > 0 < own["event_us"] for own in figures(found).values())
    assert "Not found here, and left out:" in markdown(found)
    assert set(as_data(found)["figures"]) == names


@LINUX
def test_it_works_without_a_compiler_and_with_fewer_slots_than_requests(one_round, tmp_path):
    plan = one_round([server for server in servers(None, None) if server.name == GATEWAY], compiler=None, slots=4)
    with bench.started(plan, tmp_path) as running:
        assert running.window(SHORT, GATEWAY).counted.answers > 0
        assert running.window(BULK, GATEWAY).counted.events > 0


@LINUX
def test_the_processor_time_of_children_counts(one_round, tmp_path):
    """As where a path names a script: it waits, and the server that it started works."""

    def behind_a_script(setting):
        return ["/bin/sh", "-c", '"$@" & trap "kill $!" TERM; wait', "sh", *servers(None, None)[0].command(setting)]

    with bench.started(one_round([Server("script", behind_a_script)]), tmp_path) as running:
        assert running.window(SHORT, "script").request_us > 1


@LINUX
def test_a_server_that_does_not_come_up_or_answers_wrongly_ends_it(one_round, tmp_path):
    def broken(setting):
        return ["/bin/sh", "-c", "echo no such option >&2; exit 3"]

    def knows_one(setting):
        return servers(None, None)[1].command(replace(setting, tenants=1))

    wrong = (Server("broken", broken), "no such option"), (Server("other", knows_one, "/readyz"), "401")
    for server, reason in wrong:
        folder = tmp_path / server.name
        folder.mkdir()
        with pytest.raises(ProcessError, match=reason):
            bench_gateway(one_round([server]), folder)


def test_the_gateway_has_everything_on(tmp_path):
    for access_log in (False, True):
        config = parse_config(gateway_config(Setting(1, 2, tmp_path, tenants=3, slots=50), access_log))
        assert [tenant.id for tenant in config.tenants] == ["t0", "t1", "t2"]
        assert all(tenant.keys_sha256 for tenant in config.tenants)
        assert (config.pools["main"].policy, config.pools["main"].predict) == ("vtc", "ewma")
        assert config.observe.access_log is access_log


def test_every_tenant_asks_for_what_the_load_says():
    for load in LOADS:
        requests = load.requests(2)
        assert [key_of(0).encode() in requests[0], key_of(1).encode() in requests[1]] == [True, True]
        assert all(f'"max_tokens": {load.tokens}'.encode() in request for request in requests)
        assert all((b'"stream": true' in request) == load.stream for request in requests)


def _found(rounds, names=(RELAY, NGINX, GATEWAY)):
    """Of windows of a second: `rounds[name]` has the microseconds of a request, which an event takes a tenth of, and
    alone an answer takes that long, from the engine 10."""

    def window(us, load):
        return Window(Counted(100, 1000 if load.stream else 0, us), us * 100e-6, 0.5)

    windows = {load.name: {name: [window(us, load) for us in rounds[name]] for name in names} for load in LOADS}
    windows[ALONE.name][DIRECT] = [window(10, ALONE)] * 3
    return GatewayFound(GatewayPlan([], rounds=3, seconds=1.0, compiler="cc"), (1, 0), windows)


def test_figures_are_medians_and_ratios_are_of_the_same_round():
    """The machine grows slower from round to round: the gateway is ten times nginx in two of three, whatever nginx
    was in the others."""
    found = _found({RELAY: [20, 20, 20], NGINX: [10, 20, 40], GATEWAY: [100, 200, 500]})
    own = figures(found)[GATEWAY]
    assert found.yardstick == NGINX
    assert (own["request_us"], own["event_us"], own["bulk_events_s"]) == pytest.approx((200, 20, 50_000))
    assert (own["request_of"], found.ratio(STREAMS, GATEWAY)) == pytest.approx((10, 10))
    assert own["added_us"] == 190
    assert "| Fairgate | 200.0 (10.0) | 5,000 | 20.0 (10.0) | 50,000 | 190 |" in markdown(found)
    assert f"left out: {ROUTER}." in markdown(found)


def test_without_nginx_the_bare_relay_is_the_yardstick():
    found = _found({RELAY: [20, 20, 20], GATEWAY: [100, 200, 500]}, names=(RELAY, GATEWAY))
    assert found.yardstick == RELAY
    assert found.ratio(SHORT, GATEWAY) == pytest.approx(10)
    assert f"left out: {NGINX}, {ROUTER}." in markdown(found)


def test_a_program_that_an_option_names_must_be_there(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program("--nginx", None, "nginx") is None
    with pytest.raises(ProcessError, match="--nginx /nowhere/nginx: there is no such program"):
        program("--nginx", "/nowhere/nginx", "nginx")


def test_every_benchmark_is_a_command_and_explains_itself():
    listed = CliRunner().invoke(cli.app, ["bench", "--help"]).output
    for name in ("scheduler", "shared", "processes", "gateway", "profile", "kernels", "lora"):
        assert name in listed
        assert CliRunner().invoke(cli.app, ["bench", name, "--help"]).exit_code == 0
