"""Our programs as processes of their own: start, wait until they answer, end them cleanly."""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any, Self

import yaml

from fairgate.errors import ProcessError


class Stopped(Exception):
    """Ctrl-C or SIGTERM: not an error, but the end of what was going on."""


FAIRGATE = (sys.executable, "-m", "fairgate")
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks programs of this machine, which a proxy that $http_proxy names does not know."""
_PR_SET_PDEATHSIG = 1
_TIED = f"""
import ctypes, os, sys
ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, {int(signal.SIGKILL)})
os.execvp(sys.argv[1], sys.argv[1:])
"""


def tied(command: Sequence[str]) -> Sequence[str]:
    """The command as one that dies (SIGKILL) with the *thread* that starts it, however that ends: a crash of ours
    leaves nothing behind. Only Linux can do that (prctl(2), PR_SET_PDEATHSIG); elsewhere it is just the command."""
    return (sys.executable, "-ISc", _TIED, *command) if sys.platform == "linux" else command


def die_with(parent: int) -> None:
    """The same for a process of ours that was forked: to be called in it, first of all."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has ended already, and nobody will be told
            os._exit(1)


class Program:
    """One command, of `fairgate` by default, running beside this process, out of reach of the terminal's Ctrl-C.

    As a context manager it is stopped on the way out, however that is taken.
    """

    def __init__(self, name: str, *arguments: str, log: Path | None = None, command: Sequence[str] = FAIRGATE) -> None:
        self.name = name
        self.log = log
        output = log.open("ab") if log else None
        try:
            self.process = subprocess.Popen(
                [*command, *arguments], start_new_session=True, stdout=output, stderr=output
            )
        finally:
            if output:
                output.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def wait_ready(self, url: str, timeout_s: float, look: Callable[[], None] = lambda: None) -> None:
        """Return once `url` answers 200. `look` is called between two tries and may raise.

        Raises ProcessError when the program ends first or the time is over.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.check()
            look()
            try:
                with DIRECT.open(url, timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise ProcessError(f"the {self.name} did not answer at {url} within {timeout_s:.0f} s{self._see_log()}")

    def check(self) -> None:
        """Raises ProcessError when the program has ended."""
        code = self.process.poll()
        if code is not None:
            raise ProcessError(f"the {self.name} ended with exit status {code}{self._see_log()}")

    def kill(self) -> None:
        """SIGKILL: it has no time for anything."""
        self.process.kill()
        self.process.wait()

    def terminate(self) -> None:
        """SIGTERM, without waiting. Does nothing when it has ended."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def stop(self, timeout_s: float = 45.0) -> int:
        """SIGTERM, wait for the drain, SIGKILL only past the timeout. Returns the exit status."""
        self.terminate()
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def _see_log(self) -> str:
        if self.log is None or not self.log.exists():
            return ""
        tail = self.log.read_text(errors="replace").strip().splitlines()[-8:]
        return "; its last words:\n  " + "\n  ".join(tail) if tail else ""


def stop_together(programs: Sequence[Program]) -> None:
    """All are told to end before any of them is waited for."""
    for program in programs:
        program.terminate()
    for program in programs:
        program.stop()


def wait_until(ready: Callable[[], bool], what: str, timeout_s: float, every_s: float = 0.02) -> None:
    """Return once `ready()` is true. Raises ProcessError that says what was waited for."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            raise ProcessError(f"waited {timeout_s:g} s for {what}")
        time.sleep(every_s)


def free_port(preferred: int = 0) -> int:
    """`preferred` when nobody listens there on the loopback, else a port the system picks."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ProcessError("no free port on 127.0.0.1")


def free_ports(wanted: Mapping[str, int]) -> dict[str, int]:
    """Those of the wanted ports that nobody listens at, and each only once; 0 is none."""
    found: dict[str, int] = {}
    for name, port in wanted.items():
        if port and port not in found.values() and free_port(port) == port:
            found[name] = port
            _promised.add(port)
    return found


# Outside the range that systems give to outgoing connections: a client that tries again and again while its server
# is down would sooner or later connect to itself, and the server could not come back on its port.
_FIRST_PORT, _MANY_PORTS = 20_000, 12_000
_handed_out = count(secrets.randbelow(_MANY_PORTS))
_promised: set[int] = set()  # to members that want them and may not listen there yet


def lasting_port() -> int:
    """A free port on the loopback that a server can go away from and come back to. None is handed out twice before
    all have been: a server that is given one need not listen there yet."""
    while (port := _FIRST_PORT + next(_handed_out) % _MANY_PORTS) in _promised or free_port(port) != port:
        pass
    return port


def write_config(settings: Mapping[str, Any], path: Path) -> Path:
    path.write_text(yaml.safe_dump(dict(settings), sort_keys=False))
    return path


@contextmanager
def stop_signals(*others: signal.Signals) -> Iterator[list[int]]:
    """SIGINT and SIGTERM, and `others`, are noted in the list instead of acted on: what runs looks at it between two
    steps."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, *others)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def go_on(signals: list[int]) -> None:
    """Raises Stopped when a signal was noted."""
    if signals:
        raise Stopped
