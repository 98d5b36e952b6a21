"""`fairgate gateway --processes 2` as its user sees it: one port, one queue, and what is killed comes back."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections import Counter
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import psutil
import pytest
import redis
import yaml

from fairgate.bench.client import post
from fairgate.topology.plan import MockEngine
from fairgate.topology.processes import FAIRGATE, Program, lasting_port, wait_until
from fairgate.topology.settings import gateway_settings, key_of, mock_settings
from fairgate.topology.stores import StoreServer, find_servers
from gateway.pools.shared.machine import machine

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="shares a port, and dies with its parent, as on Linux")
WEIGHTS = {"a": 2.0, "b": 1.0}
ENGINE = MockEngine(slots=4, kv_tokens=4096, step_s=0.005)
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """The port of a mock engine."""
    port, log = lasting_port(), tmp_path_factory.mktemp("engine") / "service.log"
    with Program("engine", *ENGINE.arguments(port, log)) as program:
        program.wait_ready(f"http://127.0.0.1:{port}/health", PATIENCE_S)
        yield port


def settings_of(engine, pool=None, **more):
    common = mock_settings("mock", WEIGHTS, pool or {})
    worker = {"url": f"http://127.0.0.1:{engine}", "slots": ENGINE.slots, "kv_tokens": ENGINE.kv_tokens}
    return {**gateway_settings(common, 0, [worker], None), **more}


class Gateway:
    """The command with its configuration, and what it says."""

    def __init__(self, folder, settings, *options, **environment):
        (folder / "gateway.yaml").write_text(yaml.safe_dump(settings))
        self._log = folder / "said"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*FAIRGATE, "gateway", "--config", str(folder / "gateway.yaml"), *options],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | environment,
            )

    @property
    def said(self):
        return self._log.read_text()

    def wait_for(self, words, times=1):
        def said_or_over():
            return self.said.count(words) >= times or self.process.poll() is not None

        wait_until(said_or_over, f"{words!r} in what it says", PATIENCE_S)
        assert self.said.count(words) >= times, self.said

    @property
    def url(self):
        return re.search(r"gateway ready on (\S+),", self.said)[1]

    @property
    def port(self):
        return urlsplit(self.url).port

    def children(self):
        return psutil.Process(self.process.pid).children()

    @property
    def store(self):
        """The process of the store that it started."""
        return next((child for child in self.children() if child.name().endswith("-server")), None)

    @property
    def processes(self):
        return [child for child in self.children() if not child.name().endswith("-server")]

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=PATIENCE_S) as answer:
            return answer.read().decode()

    def shares(self):
        """Do both processes serve, with one queue?"""
        up = re.findall(r'fairgate_store_up\{process="(\d)",pool="main"\} 1.0', self.get("/metrics"))
        return up == ["1", "2"]

    def end(self, *signals):
        for number in signals or (signal.SIGTERM,):
            self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


@contextmanager
def running(folder, settings, *options):
    gateway = Gateway(folder, settings, "--processes", "2", *options)
    try:
        gateway.wait_for("gateway ready on")
        wait_until(gateway.shares, "both processes to share the queue", PATIENCE_S)
        yield gateway
    finally:
        if gateway.process.poll() is None:
            gateway.end(signal.SIGTERM, signal.SIGINT)


def gone(process):
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def all_gone(processes):
    wait_until(lambda: all(map(gone, processes)), "all processes to be gone", PATIENCE_S)


def body(tokens, **more):
    return {"model": "mock", "prompt": "hello there", "max_tokens": tokens, **more}


def request(tenant, body):
    """As it goes over the wire."""
    return post("/v1/completions", key_of(tenant), body)


def ask(gateway, tenant="a", tokens=3):
    """The status of a request, over a connection of its own."""
    headers = {"Authorization": f"Bearer {key_of(tenant)}"}
    asked = urllib.request.Request(f"{gateway.url}/v1/completions", json.dumps(body(tokens)).encode(), headers)
    with urllib.request.urlopen(asked, timeout=PATIENCE_S) as answer:
        return answer.status


class Stream:
    """A streamed answer that takes as long as is read from it, and which process it comes from."""

    def __init__(self, gateway, tokens):
        self._socket = socket.create_connection(("127.0.0.1", gateway.port))
        self._socket.settimeout(PATIENCE_S)
        self._socket.sendall(request("a", body(tokens, stream=True)))
        self._got = self._socket.recv(65536)
        assert self._got.startswith(b"HTTP/1.1 200"), self._got
        self.process = holder_of(gateway, self._socket)

    def rest(self):
        """Whether it came to its end."""
        with suppress(ConnectionError), self._socket:
            while not self._got.endswith(b"\r\n0\r\n\r\n") and (data := self._socket.recv(65536)):
                self._got += data
        return b"data: [DONE]" in self._got

    def leave(self):
        self._socket.close()


def holder_of(gateway, client):
    """The process that has the other end of a connection."""
    port = client.getsockname()[1]
    for process in gateway.processes:
        if any(one.raddr and one.raddr.port == port for one in process.net_connections("tcp")):
            return process
    raise AssertionError(f"no process has the connection from port {port}")


def streams_of_both(gateway, tokens):
    """Two that run, by different processes; the system chooses by a hash of the client's port, so: until there are."""
    found = {}
    while len(found) < 2:
        stream = Stream(gateway, tokens)
        found.setdefault(stream.process.pid, stream)
        if found[stream.process.pid] is not stream:
            stream.leave()
    return found


# what it is


def test_it_is_one_gateway_and_leaves_nothing(tmp_path, engine):
    with running(tmp_path, settings_of(engine)) as gateway:
        assert gateway.said.count("gateway ready on") == 1
        assert gateway.said.splitlines()[-1].endswith("tenants: 2, processes: 2")
        children = gateway.children()
        assert len(children) == 3, "two processes and their store"
        assert [ask(gateway, tenant) for tenant in "abab"] == [200] * 4
        assert json.loads(gateway.get("/readyz"))["processes_up"] == 2
        wait_until(lambda: served(gateway) == 4, "four requests on the page", PATIENCE_S)
        assert gateway.end() == 0
        assert gateway.said.splitlines()[-1] == "gateway stopped"
        assert "Traceback" not in gateway.said
        all_gone(children)


def served(gateway):
    """By all processes, as the one that happens to be scraped says."""
    return sum(
        float(n) for n in re.findall(r'fairgate_requests_total\{.*outcome="ok".*\} (\S+)', gateway.get("/metrics"))
    )


def test_one_share_over_both_also_for_a_tenant_that_reaches_only_one(tmp_path, engine):
    """Weights 2:1, the tenant of weight 2 at one of two processes alone: a queue for each of them could give it at most
    the half that its process has, and 2/3 of that where the other tenant waits there too."""
    with running(tmp_path, settings_of(engine)) as gateway:
        answered = asyncio.run(saturate(gateway, 600))
    window = Counter(answered[100:])
    assert abs(window["a"] / window.total() - 2 / 3) < 0.1, window


class Connection:
    """One kept connection, and the process that has its other end."""

    def __init__(self, reader, writer):
        self._reader, self._writer = reader, writer
        self.process = None

    @classmethod
    async def open(cls, gateway):
        connection = cls(*await asyncio.open_connection("127.0.0.1", gateway.port))
        await connection.ask("a")  # who answered has taken it
        connection.process = holder_of(gateway, connection._writer.get_extra_info("socket")).pid
        return connection

    async def ask(self, tenant):
        self._writer.write(request(tenant, body(4)))
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        await self._reader.readexactly(int(re.search(rb"(?i)content-length: (\d+)", head)[1]))

    def close(self):
        self._writer.close()


async def saturate(gateway, requests):
    """Who was answered, in order: both tenants always have more requests than there are slots."""
    answered = []

    async def keep_asking(connection, tenant):
        while len(answered) < requests:
            await connection.ask(tenant)
            answered.append(tenant)

    async with asyncio.timeout(PATIENCE_S):
        connections = {process.pid: [] for process in gateway.processes}
        while min(map(len, connections.values())) < 16:
            connection = await Connection.open(gateway)
            connections[connection.process].append(connection)
        one, other = connections.values()
        loads = [(c, "a") for c in one[:12]] + [(c, "b") for c in (*one[12:16], *other[:16])]
        await asyncio.gather(*(keep_asking(*load) for load in loads))
    for connection in (*one, *other):
        connection.close()
    return answered


# what is killed


def test_a_process_that_is_killed_is_told_and_comes_back_while_the_other_serves_on(tmp_path, engine):
    with running(tmp_path, settings_of(engine)) as gateway:
        killed, kept = streams_of_both(gateway, 300).values()
        killed.process.kill()
        assert not killed.rest()
        assert kept.rest(), "the other process' stream was cut off"
        gateway.wait_for("was ended by SIGKILL; it is started again in 0.2 s")
        gateway.wait_for(") is ready")
        wait_until(gateway.shares, "both processes to share the queue", PATIENCE_S)
        assert kept.process.pid in (pids := {process.pid for process in gateway.processes})
        assert killed.process.pid not in pids
        assert len(pids) == 2
        wait_until(lambda: room_is_free(gateway), "the dead process' room to be free", PATIENCE_S)


def room_is_free(gateway):
    """Neither slots nor tokens of the engine are taken, as the store itself has it."""
    with redis.Redis(unix_socket_path=f"{gateway.store.cwd()}/store.sock") as store:
        look = json.loads(store.fcall(machine().function("inspect"), 1, "{fairgate:main}"))
    return look["running"] == 0 and not any(worker["reserved"] for worker in look["workers"])


def test_the_store_that_is_killed_comes_back_and_nobody_was_refused(tmp_path, engine):
    with running(tmp_path, settings_of(engine)) as gateway:
        stream, store = Stream(gateway, 300), gateway.store
        store.kill()
        assert [ask(gateway) for _ in range(4)] == [200] * 4
        assert stream.rest()
        gateway.wait_for("the store ended and is started again")
        wait_until(lambda: gateway.store not in (None, store), "another store", PATIENCE_S)
        wait_until(gateway.shares, "both processes to share the queue", PATIENCE_S)
        assert ask(gateway) == 200
        assert "Traceback" not in gateway.said


def test_nothing_outlives_the_parent_when_that_is_killed(tmp_path, engine):
    with running(tmp_path, settings_of(engine)) as gateway:
        children = gateway.children()
        gateway.process.kill()
        all_gone(children)


# signals


def test_sigterm_drains_a_stream(tmp_path, engine):
    with running(tmp_path, settings_of(engine)) as gateway:
        streams, children = streams_of_both(gateway, 300), gateway.children()
        for process in gateway.processes:
            process.terminate()  # a service manager tells everybody, and the parent tells them once more
        gateway.process.terminate()
        gateway.wait_for("gateway drains")
        assert all(stream.rest() for stream in streams.values())
        assert gateway.process.wait(PATIENCE_S) == 0
        all_gone(children)


def test_a_second_signal_ends_the_drain(tmp_path, engine):
    with running(tmp_path, settings_of(engine)) as gateway:
        stream, children = Stream(gateway, 3000), gateway.children()
        gateway.process.send_signal(signal.SIGINT)
        gateway.wait_for("gateway drains")
        assert gateway.end(signal.SIGINT) == 0
        assert not stream.rest()
        all_gone(children)


def test_sighup_ends_nobody(tmp_path, engine):
    with running(tmp_path, settings_of(engine)) as gateway:
        before = gateway.children()
        gateway.process.send_signal(signal.SIGHUP)
        assert ask(gateway) == 200
        assert gateway.children() == before
        assert gateway.end() == 0
        assert "SIGHUP" not in gateway.said


# what stands in its way


def refused(folder, settings, *options):
    gateway = Gateway(folder, settings, *options)
    assert gateway.process.wait(PATIENCE_S) == 2
    assert "Traceback" not in gateway.said
    return gateway.said


@pytest.mark.parametrize("count", ["0", "-1", "two", "1000", "1.5", ""])
def test_a_count_that_is_none(tmp_path, count):
    assert f"--processes {count!r}: expected auto, or a number from 1 to 999" in refused(
        tmp_path, {}, f"--processes={count}"
    )


def test_a_mistake_in_the_configuration_is_told_once(tmp_path, engine):
    said = refused(tmp_path, settings_of(engine, listen={"port": "x"}), "--processes", "3")
    assert said.count("listen.port") == 1


def test_what_shared_state_has_not_is_told_in_terms_of_the_option(tmp_path, engine):
    said = refused(tmp_path, settings_of(engine, pool={"ttft_objective_s": 1.0}), "--processes", "2")
    assert "pools.main.ttft_objective_s: cannot be used with --processes 2" in said


@pytest.mark.parametrize("share", [False, True], ids=["alone", "shared"])
def test_a_port_that_is_taken_is_told_once(tmp_path, engine, share):
    with socket.socket() as other:
        if share:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        listen = {"port": other.getsockname()[1]}
        said = refused(tmp_path, settings_of(engine, listen=listen), "--processes", "2")
    assert said.count("cannot listen on") == 1


def refused_after(code, folder, settings):
    """What it says when something is different on this machine."""
    (folder / "gateway.yaml").write_text(yaml.safe_dump(settings))
    options = ["gateway", "--config", str(folder / "gateway.yaml"), "--processes", "2"]
    command = [sys.executable, "-c", f"{code}; from fairgate.cli import main; main()", *options]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    return result.stderr


def test_without_a_store_server_it_says_what_to_install(tmp_path, engine):
    said = refused_after("import fairgate.topology.stores as s; s.find_servers = dict", tmp_path, settings_of(engine))
    assert "pip install 'fairgate[store]'" in said


def test_what_keeps_every_process_from_serving_is_told_once(tmp_path, engine):
    """Here the port, which the parent did not look at."""
    code = "import fairgate.topology.supervisor as s; s._hold_port = lambda stack, config: config.listen.port"
    with socket.create_server(("127.0.0.1", 0)) as other:
        said = refused_after(code, tmp_path, settings_of(engine, listen={"port": other.getsockname()[1]}))
    assert said.count("cannot listen on") == 1


def test_a_folder_for_sockets_that_is_too_deep_is_told(tmp_path, engine, monkeypatch):
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    assert "expected TMPDIR to name a shorter one" in refused(tmp_path, settings_of(engine), "--processes", "2")


# with a store of one's own


def test_the_store_that_the_configuration_names_is_used_and_none_started(tmp_path, engine):
    with StoreServer(min(find_servers().items())[1], tmp_path / "store") as store:
        settings = settings_of(engine, store={"url": store.url, "replica": "mine"})
        with running(tmp_path, settings) as gateway:
            assert gateway.store is None
            replicas = {name.rsplit("-", 1)[0] for name in store.command("HKEYS", "{fairgate:main}:replicas")}
            assert replicas == {"mine-1", "mine-2"}
            assert gateway.end() == 0
        assert store.command("PING")
