"""A gateway of many processes as a command that runs: what it says, whom it has, and clients that speak with it."""

import json
import os
import re
import signal
import socket
import subprocess
import urllib.request
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import psutil
import yaml

from fairgate.bench.client import post
from fairgate.topology.plan import MockEngine
from fairgate.topology.processes import FAIRGATE, wait_until
from fairgate.topology.settings import gateway_settings, key_of, mock_settings

WEIGHTS = {"a": 2.0, "b": 1.0}
ENGINE = MockEngine(slots=4, kv_tokens=4096, step_s=0.005)
PATIENCE_S = 60.0


def settings_of(engine, pool=None, **more):
    common = mock_settings("mock", WEIGHTS, pool or {})
    worker = {"url": f"http://127.0.0.1:{engine}", "slots": ENGINE.slots, "kv_tokens": ENGINE.kv_tokens}
    return {**gateway_settings(common, 0, [worker], None), **more}


class Gateway:
    """The command with its configuration, and what it says; with a `stdout` of its own, only to standard error."""

    def __init__(self, folder, settings, *options, stdout=None, **environment):
        (folder / "gateway.yaml").write_text(yaml.safe_dump(settings))
        self._log = folder / "said"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*FAIRGATE, "gateway", "--config", str(folder / "gateway.yaml"), *options],
                stdout=stdout or log,
                stderr=log,
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
        """Those that serve: its children but the store, or itself alone."""
        children = [child for child in self.children() if not child.name().endswith("-server")]
        return children or [psutil.Process(self.process.pid)]

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
