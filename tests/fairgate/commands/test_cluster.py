"""`fairgate cluster` with mock engines: it serves, survives what is killed, and ends with everything it started."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import openai
import psutil
import pytest

from fairgate.topology.processes import free_port
from fairgate.topology.settings import DEMO_KEYS
from fairgate.topology.stores import find_servers

from .conftest import WELCOME_ENDS, Command, command, launch

ROOT = Path(__file__).parents[3]
MESSAGES = [{"role": "user", "content": "hello"}]


class Cluster(Command):
    """Its addresses and process ids, as it says them."""

    @property
    def doors(self):
        return re.findall(r"curl -N (\S+)/v1/", self.said)

    @property
    def pids(self):
        found = re.findall(r"^  ([\w-]+) +(\d+)$", self.said, re.MULTILINE)
        return {name: int(pid) for name, pid in found}


def arguments(folder):
    return "cluster", "--mock", "--port", free_port(), "--folder", folder


def cluster(folder, path):
    return command(*arguments(folder), kind=Cluster, PATH=str(path))


@pytest.fixture
def only_a_store(tmp_path):
    """A PATH with a store server and neither nginx nor Prometheus."""
    kind, binary = next(iter(find_servers().items()))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / f"{kind}-server").symlink_to(binary)
    return tmp_path / "bin"


def alive(pid):
    """Dead is also what nobody has collected yet."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def streamed(door, key):
    """The text of a streamed answer, by its pieces."""
    with (
        openai.OpenAI(base_url=f"{door}/v1", api_key=key, max_retries=0) as client,
        client.chat.completions.create(model="mock", messages=MESSAGES, max_tokens=6, stream=True) as stream,
    ):
        return [chunk.choices[0].delta.content for chunk in stream if chunk.choices and chunk.choices[0].delta.content]


def test_it_serves_every_tenant_and_ctrl_c_ends_all_of_it(tmp_path, only_a_store):
    folder = tmp_path / "run"
    with cluster(folder, only_a_store) as running:
        assert len(set(running.doors)) == 2, "without nginx each gateway has its own address"
        assert "nginx is not on PATH" in running.said
        assert set(running.pids) == {"store", "worker-1", "worker-2", "gateway-1", "gateway-2"}
        assert all(map(alive, running.pids.values()))
        for door in set(running.doors):
            for key in DEMO_KEYS.values():
                assert len(streamed(door, key)) == 6
        rest = running.end()
        assert running.process.returncode == 0, rest
        assert "Traceback" not in running.said + rest
        assert not [name for name, pid in running.pids.items() if alive(pid)]
        for door in running.doors:
            with pytest.raises(urllib.error.URLError):
                urllib.request.urlopen(f"{door}/healthz", timeout=2)
        assert f"logs are in {folder}" in rest
        assert {"gateway-1.log", "worker-2.log", "gateway-2.yaml"} <= {file.name for file in folder.iterdir()}


def test_what_is_killed_is_reported_and_the_rest_goes_on_until_no_gateway_is_left(tmp_path, only_a_store):
    with cluster(tmp_path / "run", only_a_store) as running:
        first, second, *_ = running.doors
        os.kill(running.pids["gateway-1"], signal.SIGKILL)
        assert "gateway-1 ended with exit status -9" in running.read_until("The others go on")
        assert len(streamed(second, DEMO_KEYS["bob"])) == 6
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(f"{first}/healthz", timeout=2)
        os.kill(running.pids["gateway-2"], signal.SIGKILL)
        rest, _ = running.process.communicate(timeout=90)
        assert running.process.returncode == 2
        assert "fairgate: no gateway is left" in rest
        assert "Traceback" not in rest
        assert not [name for name, pid in running.pids.items() if alive(pid)]


def test_ctrl_c_while_it_starts_ends_what_was_started(tmp_path, only_a_store):
    process = launch(*arguments(tmp_path / "run"), PATH=str(only_a_store))
    assert "starting the store" in process.stdout.readline()
    assert "starting worker-1" in process.stdout.readline()
    store = pid_of_store(tmp_path / "run")
    assert alive(store)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=90)
    assert process.returncode == 0, rest
    assert WELCOME_ENDS not in rest
    assert not alive(store)


def pid_of_store(folder):
    """From its own log: `PID:ROLE DATE * ...`."""
    return int(re.search(r"^(\d+):", (folder / "store" / "server.log").read_text(), re.MULTILINE)[1])


@pytest.mark.skipif(sys.platform != "linux", reason="children that die with their parent are a feature of Linux")
def test_nothing_outlives_a_crash_of_the_command(tmp_path, only_a_store):
    with cluster(tmp_path / "run", only_a_store) as running:
        running.process.kill()
        running.process.wait()
        deadline = time.monotonic() + 30
        while any(alive(pid) for pid in running.pids.values()) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not [name for name, pid in running.pids.items() if alive(pid)]


def test_without_a_store_server_it_says_what_to_install(tmp_path):
    code = "import fairgate.topology.stores as s; s.find_servers = dict; from fairgate.cli import main; main()"
    options = ["cluster", "--mock", "--folder", str(tmp_path)]
    result = subprocess.run([sys.executable, "-c", code, *options], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "redis-server" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not on PATH")
def test_nginx_in_front_passes_streams_and_ids_and_no_gateway_is_missed(tmp_path):
    with cluster(tmp_path / "run", os.environ["PATH"]) as running:
        [door] = set(running.doors)
        assert len(streamed(door, DEMO_KEYS["alice"])) == 6
        os.kill(running.pids["gateway-1"], signal.SIGKILL)
        running.read_until("The others go on")
        for number in range(4):
            assert answered_id(door, f"mine-{number}") == f"mine-{number}"
        os.kill(running.pids["gateway-2"], signal.SIGKILL)
        running.process.communicate(timeout=90)


def answered_id(door, request_id):
    body = json.dumps({"model": "mock", "messages": MESSAGES, "max_tokens": 2}).encode()
    headers = {"Authorization": f"Bearer {DEMO_KEYS['carol']}", "x-request-id": request_id}
    with urllib.request.urlopen(urllib.request.Request(f"{door}/v1/chat/completions", body, headers)) as answer:
        return answer.headers["x-request-id"]


SELECTED = re.compile(r"(fairgate_[a-z0-9_]+)(?:\{(\w+)=)?")
GROUPED = re.compile(r"by \(([\w, ]+)\) \((?:rate\()?(fairgate_[a-z0-9_]+)")


def test_the_dashboard_asks_for_labels_that_the_metrics_have(tmp_path, only_a_store):
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "fairgate.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    with cluster(tmp_path / "run", only_a_store) as running:
        door = running.doors[0]
        streamed(door, DEMO_KEYS["alice"])
        with long_stream(door, DEMO_KEYS["bob"]):
            labels = labels_by_name(door)
    asked = {(name, label) for query in queries for name, label in SELECTED.findall(query) if label}
    asked |= {(n, label) for query in queries for group, n in GROUPED.findall(query) for label in group.split(", ")}
    assert ("fairgate_service_total", "tenant") in asked
    assert not [(name, label) for name, label in asked if label not in labels[name]]


@contextmanager
def long_stream(door, key):
    """A request that runs meanwhile: a pool tells of tenants that wait or run."""
    with (
        openai.OpenAI(base_url=f"{door}/v1", api_key=key, max_retries=0) as client,
        client.chat.completions.create(model="mock", messages=MESSAGES, max_tokens=2000, stream=True) as stream,
    ):
        next(iter(stream))
        yield


def labels_by_name(door):
    """Labels of every series that has samples. A finished request is counted a moment after its last byte, and what
    the store holds is told a moment later."""
    deadline = time.monotonic() + 10
    found = {}
    while not {"fairgate_service_total", "fairgate_queue_requests"} <= set(found) and time.monotonic() < deadline:
        with urllib.request.urlopen(f"{door}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        samples = [re.match(r"(\w+)(?:\{(.*)\})? ", line) for line in lines if not line.startswith("#")]
        found = {sample[1]: set(re.findall(r"(\w+)=", sample[2] or "")) for sample in samples}
    return found
