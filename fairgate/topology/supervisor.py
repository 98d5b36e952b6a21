"""`fairgate gateway --processes N`: one gateway as N processes on one port, with one queue over them.

This process is the parent. It serves nobody: it holds the port, starts the store where the configuration names none,
and the N processes, each a replica with a name of its own; says when all are ready; starts again what ends; and passes
on what it is told. Everything dies with it, however it ends (Linux).

    SIGTERM, SIGINT   all drain; a second one ends them
    SIGHUP            each is told to read again what it can
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from multiprocessing.connection import wait
from pathlib import Path

from fairgate.errors import ProcessError
from fairgate.topology.held_port import held_port
from fairgate.topology.private_folder import private_folder
from fairgate.topology.processes import stop_signals
from fairgate.topology.replica import Pauses, Replica
from fairgate.topology.stores import SocketStore, store_binary
from gateway.config.schema import GatewayConfig, StoreConfig
from gateway.errors import ConfigError
from gateway.main import cannot_listen, say, warn
from gateway.siblings import Place

LOOK_S = 0.1
GRACE_S = 10.0
"""After the time to drain is over, or a second signal came: whoever is not gone by then is killed."""
LONGEST_FOLDER = 80
"""Bytes of the path of a folder with Unix sockets in it: theirs may have 104 (macOS) or 108 (Linux)."""


def supervise(config: GatewayConfig, processes: int) -> int:
    """Serve until SIGTERM or SIGINT, drain, and return 0. Raises ConfigError, ListenError, and ProcessError, whose text
    is meant for the user."""
    _check(config, processes)
    warn(config)
    with ExitStack() as stack:
        folder = _short(stack.enter_context(private_folder()))
        signals = stack.enter_context(stop_signals(signal.SIGHUP))
        listen = config.listen.model_copy(update={"port": _hold_port(stack, config)})
        store = stack.enter_context(SocketStore(store_binary(), folder)) if config.store is None else None
        section = StoreConfig(url=store.url) if store is not None else config.store
        config = config.model_copy(update={"listen": listen, "store": section})
        return Supervisor(config, processes, folder, signals, store).run()


class Supervisor:
    """`config` with the port and the store that all processes have; `store` is the one that was started for them."""

    def __init__(
        self, config: GatewayConfig, processes: int, folder: Path, signals: list[int], store: SocketStore | None = None
    ) -> None:
        self._config = config
        self._signals = signals
        self._store = store
        self._store_pauses = Pauses()
        places = [Place(number, processes, folder) for number in range(1, processes + 1)]
        self._replicas = [Replica(_own_config(config, place), place) for place in places]
        self._all_ready = self._waited = False

    def run(self) -> int:
        """Raises ProcessError when one cannot begin to serve, for a reason that it names."""
        try:
            while not self._asked(signal.SIGTERM, signal.SIGINT):
                self._look()
            self._drain()
        finally:
            for replica in self._replicas:
                replica.kill()
        say("gateway stopped")
        return 0

    # -- while it serves -----------------------------------------------------------------------------------------

    def _look(self) -> None:
        self._pass_on_hup()
        if self._store is not None:
            self._keep(self._store)
        for replica in self._replicas:
            for moment, line in replica.look():
                self._heard(replica, moment, line)
        wait([source for replica in self._replicas for source in replica.telling()], LOOK_S)

    def _heard(self, replica: Replica, moment: str, line: str) -> None:
        if moment == "failed" and not self._all_ready:
            raise ProcessError(line)
        if moment in ("failed", "ended"):
            _warn(line)
        elif moment == "waits" and not self._waited:
            self._waited = True
            say(line)
        elif moment == "ready":
            self._ready(replica, line)

    def _ready(self, replica: Replica, line: str) -> None:
        if self._all_ready:
            say(f"{replica} is ready")
        elif all(one.ready for one in self._replicas):
            self._all_ready = True
            say(f"{line}, processes: {len(self._replicas)}")

    def _keep(self, store: SocketStore) -> None:
        """Start it again when it has ended; the processes go on alone meanwhile, and come back by themselves."""
        if store.program.process.poll() is None or not self._store_pauses.over():
            return
        _warn("the store ended and is started again; the processes go on alone meanwhile")
        self._store_pauses.ended()
        try:
            store.start()
        except ProcessError as error:
            _warn(str(error))
        self._store_pauses.began()

    def _pass_on_hup(self) -> None:
        while signal.SIGHUP in self._signals:
            self._signals.remove(signal.SIGHUP)
            for replica in self._replicas:
                replica.signal(signal.SIGHUP)

    def _asked(self, *numbers: int) -> int:
        """How many of these signals came."""
        return sum(number in numbers for number in list(self._signals))

    # -- the end -------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Return when all have ended, or should have."""
        drain_s = self._config.timeouts.drain_s
        say(f"gateway drains, for {drain_s:g} s at most")
        for replica in self._replicas:
            replica.signal(signal.SIGTERM)
        if not self._gone_within(drain_s + GRACE_S, lambda: self._asked(signal.SIGTERM, signal.SIGINT) > 1):
            for replica in self._replicas:
                replica.signal(signal.SIGINT)
            self._gone_within(GRACE_S)

    def _gone_within(self, seconds: float, hurry: Callable[[], bool] = lambda: False) -> bool:
        deadline = time.monotonic() + seconds
        while any(replica.alive() for replica in self._replicas):
            if time.monotonic() > deadline or hurry():
                return False
            wait([source for replica in self._replicas for source in replica.ending()], LOOK_S)
        return True


def _check(config: GatewayConfig, processes: int) -> None:
    """Raises ConfigError. What a store cannot have is told here in words that do not ask where the store comes from."""
    if config.listen.unix is not None:
        text = (
            f"cannot be used with --processes {processes}: one process alone can listen there; expected host and port"
        )
        raise ConfigError(f"listen.unix: {text}")
    for name, pool in config.pools.items() if config.store is None else ():
        for key, reason in pool.not_shared():
            text = f"cannot be used with --processes {processes}, which shares the queue over a store: {reason}"
            raise ConfigError(f"pools.{name}.{key}: {text}")


def _own_config(config: GatewayConfig, place: Place) -> GatewayConfig:
    store = config.store
    assert store is not None
    name = f"{store.replica or socket.gethostname()}-{place.number}"
    return config.model_copy(update={"store": store.model_copy(update={"replica": name})})


def _hold_port(stack: ExitStack, config: GatewayConfig) -> int:
    try:
        return stack.enter_context(held_port(config.listen.host, config.listen.port))
    except (OSError, UnicodeError) as error:
        raise cannot_listen(config, error) from None


def _short(folder: Path) -> Path:
    if len(os.fsencode(folder)) > LONGEST_FOLDER:
        raise ProcessError(f"{folder}: too long a path for Unix sockets; expected TMPDIR to name a shorter one")
    return folder


def _warn(line: str) -> None:
    with suppress(OSError):
        print(f"gateway: {line}", file=sys.stderr, flush=True)
