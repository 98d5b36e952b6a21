"""A deployment serves, gives back what was killed at its address, and leaves nothing behind."""

import json
import os
import sys
import urllib.error
from dataclasses import replace
from urllib.request import Request, urlopen

import psutil
import pytest
import yaml

from fairgate.errors import ProcessError
from fairgate.topology.deployment import Deployment
from fairgate.topology.plan import MockEngine, mock_plan
from fairgate.topology.settings import key_of, mock_settings
from loadgen.judge.engines import read_service_logs

ENGINE = MockEngine(slots=2, kv_tokens=256, step_s=0.005)


def plan(folder, **more):
    return mock_plan(folder, {"a": 1.0}, 2, engine=ENGINE, **more)


def ask(url, tenant="a"):
    """The status of a request."""
    body = json.dumps({"model": "mock", "prompt": "hello", "max_tokens": 3}).encode()
    headers = {"Authorization": f"Bearer {key_of(tenant)}", "Content-Type": "application/json"}
    try:
        with urlopen(Request(f"{url}/v1/completions", body, headers), timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_all_of_it_serves_and_all_of_it_ends(tmp_path):
    said = []
    with Deployment(plan(tmp_path / "made" / "here", engines=2), said.append) as deployment:
        assert list(deployment.start().pids) == ["store", "engine-0", "engine-1", "gateway-0", "gateway-1"]
        pids = list(deployment.pids.values())
        assert [ask(url) for url in deployment.gateway_urls] == [200, 200]
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    assert said[0].startswith("starting the store")
    assert said[1:] == [f"starting {name}" for name in ("engine-0", "engine-1", "gateway-0", "gateway-1")]


def test_without_a_store_each_gateway_has_its_part_of_an_engine(tmp_path):
    with Deployment(plan(tmp_path, shared=False)) as deployment:
        deployment.start()
        assert deployment.store is None
        assert [ask(url) for url in deployment.gateway_urls] == [200, 200]
    assert "slots: 1" in (tmp_path / "gateway-0.yaml").read_text()


def test_a_room_that_cannot_be_split_is_refused(tmp_path):
    with pytest.raises(ProcessError, match="3 slots cannot be split over 4 gateways"):
        mock_plan(tmp_path, {"a": 1.0}, 4, engine=MockEngine(slots=3), shared=False)


def test_what_was_killed_comes_back_at_its_address_and_goes_on_with_its_logs(tmp_path):
    with Deployment(plan(tmp_path)) as deployment:
        [first, second] = deployment.start().gateway_urls
        deployment.kill("gateway-0")
        with pytest.raises(urllib.error.URLError):
            ask(first)
        assert ask(second) == 200
        deployment.start_member("gateway-0")
        deployment.kill("engine-0")
        deployment.start_member("engine-0")
        assert deployment.gateway_urls == [first, second]
        assert ask(deployment.url("engine-0")) == 200
        log = deployment.plan.service_log("engine-0")
        assert read_service_logs(log).engines[log].starts == 2


def test_gateways_begin_anew_with_other_settings_while_workers_stay(tmp_path):
    with Deployment(plan(tmp_path, shared=False)) as deployment:
        before = deployment.start().pids
        [url, _] = deployment.gateway_urls
        assert ask(url, "b") == 401
        deployment.reconfigure(mock_settings("mock", {"b": 1.0}, {}))
        assert ask(url, "b") == 200
        assert deployment.pids["engine-0"] == before["engine-0"]
        assert deployment.pids["gateway-0"] != before["gateway-0"]


def test_what_ends_a_start_ends_what_was_started(tmp_path):
    class Enough(Exception):
        pass

    def say(what):
        if "gateway-1" in what:
            raise Enough

    deployment = Deployment(plan(tmp_path), say)
    with pytest.raises(Enough), deployment:
        deployment.start()
    pids = deployment.pids.values()
    assert len(pids) == 3
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


def test_a_member_that_does_not_come_up_is_named_with_its_last_words(tmp_path):
    broken = mock_plan(tmp_path, {"a": 1.0}, 1, engine=ENGINE, shared=False, pool={"policy": "best"})
    with (
        pytest.raises(ProcessError, match=r"the gateway-0 ended with exit status 2(.|\n)*policy"),
        Deployment(broken) as deployment,
    ):
        deployment.start()


STAND_IN = """#!{python}
import re, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "{ready}" else 404)
        self.end_headers()

told = " ".join(sys.argv) + Path("{config}").read_text()
HTTPServer(("127.0.0.1", int(re.search(r"{address}:(\\d+)", told)[1])), Handler).serve_forever()
"""


def stand_in(place, **facts):
    """A program that only listens where nginx, or Prometheus, would, and says that it is ready."""
    place.write_text(STAND_IN.format(python=sys.executable, **facts))
    place.chmod(0o755)
    return str(place)


def test_what_stands_around_the_gateways_is_told_of_them_and_waited_for(tmp_path):
    folder = tmp_path / "run"
    nginx = stand_in(tmp_path / "nginx", config=folder / "nginx.conf", ready="/readyz", address=r"listen 127\.0\.0\.1")
    prometheus = stand_in(
        tmp_path / "prometheus",
        config=folder / "prometheus.yml",
        ready="/-/ready",
        address=r"web\.listen-address=127\.0\.0\.1",
    )
    around = replace(plan(folder, shared=False), nginx=nginx, prometheus=prometheus)
    said = []
    with Deployment(around, said.append) as deployment:
        pids = deployment.start().pids
        assert {"front", "prometheus"} <= set(pids)
        gateways = [url.removeprefix("http://") for url in deployment.gateway_urls]
        assert all(f"server {address} " in (folder / "nginx.conf").read_text() for address in gateways)
        jobs = yaml.safe_load((folder / "prometheus.yml").read_text())["scrape_configs"]
        assert jobs[0]["static_configs"] == [{"targets": gateways}]
    assert said[1:3] == ["starting nginx", "starting Prometheus"]
    assert not [pid for pid in pids.values() if psutil.pid_exists(pid)]


@pytest.mark.skipif(not os.path.exists("/proc"), reason="children that die with their parent are a feature of Linux")
def test_members_are_tied_to_this_process(tmp_path):
    with Deployment(plan(tmp_path, shared=False)) as deployment:
        parents = {psutil.Process(pid).ppid() for pid in deployment.start().pids.values()}
        assert parents == {os.getpid()}
