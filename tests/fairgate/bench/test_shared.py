"""The benchmark of shared state: that what it counts and fits is right. How fast anything is, is not tested."""

import json
from dataclasses import replace
from math import exp

import pytest
from redis.crc import key_slot
from typer.testing import CliRunner

from fairgate import cli
from fairgate.bench.http import HttpCase, HttpFound, StoreCounts, counts_of, measure_http, quieter_rounds
from fairgate.bench.shard_plan import CallCost, PoolLoad, largest_pool, least_busy, placed, shards_needed, simulate
from fairgate.bench.shared import LOADS, SharedFound, SharedPlan, fit_cost, plan_shards
from fairgate.bench.shared_report import commands, markdown, promises
from fairgate.bench.store import KEY, Driver, StoreCase, StoreFound, measure_store
from fairgate.topology.stores import SLOTS, StoreServer, find_servers
from gateway.pools.shared.machine import machine

COST = CallCost(call_us=50.0, request_us=60.0, report_us=10.0, spread=2.0)
COUNTING = """#!lua name=counting
redis.register_function('three', function(keys) for _ = 1, 3 do redis.call('GET', keys[1]) end end)
"""


@pytest.fixture(scope="module", params=sorted(find_servers()))
def server(request, tmp_path_factory):
    with StoreServer(find_servers()[request.param], tmp_path_factory.mktemp("store")) as server:
        yield server


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A closed loop, an open one, and two gateways with a queue that never empties."""
    cases = [
        HttpCase("all", connections=16),
        HttpCase("some", rate=60.0),
        HttpCase("queue", gateways=2, connections=24, slots=2, own=False),
    ]
    return [measure_http(case, tmp_path_factory.mktemp("http"), rounds=1, seconds=0.5) for case in cases]


# over HTTP


def test_a_request_takes_at_most_four_commands(found):
    assert all(0 < found_.middle("shared", commands) <= 4 for found_ in found)
    assert all(promise.kept is not False for promise in promises(bench(found)))


def test_more_than_four_commands_would_be_told(found):
    lap = found[0].laps["shared"][0]
    chatty = replace(lap, store=StoreCounts(commands=5 * lap.requests))
    told = promises(bench([HttpFound(found[0].case, {"own": [lap], "shared": [chatty]})]))
    assert [promise.kept for promise in told] == [False]


def test_figures_of_a_run_are_consistent(found):
    for found_ in found:
        for mode, laps in found_.laps.items():
            for lap in laps:
                assert lap.requests == len(lap.first_ms) > 0
                assert all(ms > 0 for ms in lap.first_ms)
                assert lap.cpu.gateways + lap.cpu.client > 0
                assert lap.cpu.engines > 0
                assert (lap.store.commands > 0) == (lap.store.inside > 0) == (mode == "shared")


def test_the_answers_of_a_queue_come_from_both_gateways_by_streams(found):
    """Otherwise the commands that streams take were not counted."""
    queue = found[2].laps["shared"][0]
    assert queue.store.commands > queue.requests / 16


def test_rounds_are_kept_by_what_others_did(found):
    lap = found[0].laps["shared"][0]
    laps = [replace(lap, others=others, requests=n) for n, others in enumerate((0.9, 0.1, 0.5), start=1)]
    assert [kept.requests for kept in quieter_rounds({"shared": laps})["shared"]] == [2, 3]


def test_commands_of_clients_and_of_functions_are_told_apart(server):
    with server.client() as client:
        client.function_load(COUNTING, replace=True)
        before = counts_of(server)
        for _ in range(10):
            client.fcall("three", 1, "key")
        client.xread({"stream": "0-0"}, block=1)
        after = counts_of(server)
    own = counts_of(server).commands - after.commands  # what counting itself sends
    assert after.inside - before.inside == 30
    assert after.commands - before.commands - own == 11


# the store alone


@pytest.mark.parametrize("case", [StoreCase(1, alone=True), StoreCase(4, waiting=40, tenants=10)], ids=str)
def test_the_driver_serves_whole_requests(server, case):
    server.flush()
    with server.client() as client:
        driver = Driver(client, case)
        driver.run(0.05)
        while not driver.served:
            driver.run(0.05)
        look = json.loads(client.fcall(machine().function("inspect"), 1, KEY))
    asked = driver.served + look["waiting"] + look["running"]
    assert look["waiting"] >= case.waiting
    assert asked == driver.submitted
    assert all(int(share["counter"]) >= 0 for share in look["shares"].values())


def test_a_store_is_measured(server):
    case = StoreCase(4, waiting=20, tenants=10)
    (found,) = measure_store(server, [case], rounds=1, seconds=0.3)
    assert found.case is case
    assert found.rate * found.us == pytest.approx(1e6 * found.busy)
    assert found.call_p99_us > 0 < found.inspect_us


def test_the_cost_of_a_call_is_found_again():
    cases = [StoreCase(1, True), StoreCase(1), StoreCase(16), StoreCase(16, reports=20)]
    fitted = fit_cost([stated(case) for case in cases])
    assert (fitted.call_us, fitted.request_us, fitted.report_us) == pytest.approx((50, 60, 10))
    assert fitted.spread == 2.0


# the plan


def test_times_of_a_call_have_the_99th_percentile_that_was_measured():
    sigma = COST.sigma(1)
    assert exp(2.326 * sigma - sigma**2 / 2) == pytest.approx(2.0)
    assert COST.sigma(16) == pytest.approx(sigma / 4)


def test_waiting_is_that_of_a_queue_with_one_server():
    """Many links that each have one call at a time at most are Poisson arrivals: Pollaczek-Khinchine."""
    load = PoolLoad(rate=2.0, stream_s=0.5, gateways=1, flush_s=1e6, rtt_s=0.0)
    cost = CallCost(call_us=200.0, request_us=0.0, report_us=0.0, spread=2.0)
    found = simulate(load, cost, [0] * 600, 1, seconds=20.0)
    busy = 600 * 2 * 2.0 * 200e-6  # each request is two calls
    mean = 200e-6
    square = mean**2 * exp(cost.sigma(1) ** 2)
    assert found.busy[0] == pytest.approx(busy, rel=0.03)
    wait = 2 * 600 * 2.0 * square / (2 * (1 - busy))
    assert sum(found.added_s) / len(found.added_s) == pytest.approx(mean + wait, rel=0.1)


def test_the_same_seed_gives_the_same_run():
    load = PoolLoad(rate=200.0, stream_s=0.1)
    runs = [simulate(load, COST, [0, 0, 1], 2, seconds=0.5, seed=seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_streams_keep_a_shard_as_busy_as_their_reports_cost():
    """And no less: reports come by the clock, however few requests there are."""
    load = PoolLoad(rate=10.0, stream_s=10.0, gateways=1)
    found = simulate(load, COST, [0], 1, seconds=5.0)
    assert found.busy[0] == pytest.approx(least_busy(load, COST), rel=0.15)


@pytest.mark.parametrize("shards", [1, 3, 7, 16, 100])
def test_pools_are_on_the_shards_that_own_their_slots(shards):
    """The ranges that StoreCluster gives its nodes."""
    begins = [SLOTS * number // shards for number in range(shards + 1)]
    for pool, shard in enumerate(placed(200, shards, evenly=False)):
        slot = key_slot(f"{{fairgate:pool-{pool}}}:tickets".encode())
        assert begins[shard] <= slot < begins[shard + 1]


def test_pools_placed_evenly_differ_by_one_at_most():
    places = placed(100, 7, evenly=True)
    counts = [places.count(shard) for shard in range(7)]
    assert max(counts) - min(counts) <= 1


def test_shards_are_added_until_they_are_enough():
    load = PoolLoad(rate=400.0, stream_s=0.05)
    tried = shards_needed(load, COST, 12, 5.0, evenly=True)
    assert tried[-1].added_ms(0.99) <= 5.0
    assert all(one.added_ms(0.99) > 5.0 for one in tried[:-1])


def test_a_pool_that_is_too_much_for_a_shard_stays_so_on_many():
    load = PoolLoad(rate=400.0, stream_s=10.0)
    assert least_busy(load, COST) > 1
    tried = shards_needed(load, COST, 3, 5.0, evenly=True)
    assert tried[-1].shards == 3
    assert tried[-1].added_ms(0.99) > 5.0


def test_the_largest_pool_is_within_the_limit():
    load, found = largest_pool(PoolLoad(rate=50.0, stream_s=5.0), COST, 5.0)
    assert found.added_ms(0.99) <= 5.0
    assert least_busy(load, COST) < 1


# what is told


def test_every_figure_has_its_place_in_the_tables(found):
    told = markdown(bench(found))
    assert told.count("## ") == 6
    assert "| nan |" not in told
    assert all(name in told for name in LOADS)


def test_the_command_explains_itself():
    result = CliRunner().invoke(cli.app, ["bench", "shared", "--help"])
    assert result.exit_code == 0
    assert "100 pools" in result.output


def stated(case):
    """What a case would take if calls, requests and reports cost exactly this."""
    us = case.calls_per_request * COST.call_us + COST.request_us + case.reports * COST.report_us
    return StoreFound(case, us, 1e6 / us, 1.0, 100.0, 200.0, 100.0)


def bench(http):
    batches = [stated(case) for case in (StoreCase(1, True), StoreCase(1), StoreCase(16))]
    reported, depths = [stated(StoreCase(16, reports=20))], [stated(StoreCase(4, waiting=10, tenants=10))]
    plans = plan_shards(COST, pools=3)
    largest = {name: (load, simulate(load, COST, [0], 1)) for name, load in LOADS.items()}
    return SharedFound(
        SharedPlan(1, 0.5, 3), "Redis", (0.0, 0.0), http, batches, reported, depths, COST, plans, largest
    )
