"""`fairgate gateway --processes 2` as its user sees it: one port, one queue, and what is killed comes back."""

import asyncio
import json
import re
import signal
import sys
from collections import Counter

import pytest
import redis

from fairgate.topology.processes import wait_until
from fairgate.topology.stores import StoreServer, find_servers
from fairness import BUILD
from gateway.pools.shared.machine import machine

from .many import (
    PATIENCE_S,
    Stream,
    all_gone,
    ask,
    body,
    holder_of,
    request,
    running,
    settings_of,
    streams_of_both,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="shares a port, and dies with its parent, as on Linux")


# what it is


def test_it_is_one_gateway_and_leaves_nothing(tmp_path, engine):
    with running(tmp_path, settings_of(engine)) as gateway:
        (ready,) = (line for line in gateway.said.splitlines() if line.startswith("gateway ready on"))
        assert ready.endswith(f"tenants: 2, build: {BUILD}, processes: 2")
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
        assert "ended by" not in gateway.said


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
