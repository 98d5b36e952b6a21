"""One gateway process among those that share a port: started, listened to, and started again when it ends.

It is forked on Linux: its parent has read the configuration, and has neither threads nor an event loop that a fork
could break. Elsewhere it is a fresh interpreter that is sent the same.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import NamedTuple

from fairgate.topology.processes import die_with
from gateway.config.schema import GatewayConfig
from gateway.errors import GatewayError
from gateway.main import serve
from gateway.siblings import Place

_CONTEXT = get_context("fork") if sys.platform == "linux" else get_context("spawn")
_NOTED = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0
LIVED_S = 30.0
"""Whoever lived so long ended for a new reason, and is back soon."""


class News(NamedTuple):
    """A `gateway.main.Moment`, or `failed` (it cannot serve, and says why) or `ended`; and a line that says so."""

    moment: str
    line: str


class Pauses:
    """Before something that ended is started again: at first short, and twice as long each time. `clock` in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next = FIRST_PAUSE_S
        self._began = self._due = 0.0

    def began(self) -> None:
        self._began = self._clock()

    def ended(self) -> float:
        """Returns the pause from now on, in seconds."""
        now = self._clock()
        pause = FIRST_PAUSE_S if now - self._began > LIVED_S else self._next
        self._next = min(2 * pause, LONGEST_PAUSE_S)
        self._due = now + pause
        return pause

    def over(self) -> bool:
        return self._clock() >= self._due


class Replica:
    """`look` is its life: call it again and again."""

    def __init__(self, config: GatewayConfig, place: Place) -> None:
        self.ready = False
        self._config = config
        self._place = place
        self._pauses = Pauses()
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    def __str__(self) -> str:
        return f"process {self._place.number} ({self._process.pid if self._process else 'not running'})"

    def look(self) -> list[News]:
        """What it told since it was last looked at. Starts it when it is time to."""
        over = self._process is not None and not self._process.is_alive()
        news = self._told()
        self.ready |= any(one.moment == "ready" for one in news)
        if over:
            news.append(News("ended", self._bury()))
        if self._process is None and self._pauses.over():
            self._start()
        return news

    def alive(self) -> bool:
        return self._process is not None and self._process.is_alive()

    def signal(self, number: int) -> None:
        """Nothing happens when it has ended."""
        if self._process is not None and self._process.pid is not None and self._process.is_alive():
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.join()

    def ending(self) -> list[Connection | int]:
        """What can be read (multiprocessing.connection.wait) when it has ended; nothing when it has already."""
        return [self._process.sentinel] if self._process is not None and self._process.is_alive() else []

    def telling(self) -> list[Connection | int]:
        """What can be read when there is news."""
        return [self._pipe, *ending] if (ending := self.ending()) and self._pipe is not None else []

    def _start(self) -> None:
        """A signal that comes meanwhile waits until both know how to take it."""
        self._pipe, theirs = _CONTEXT.Pipe(duplex=False)
        self._process = _CONTEXT.Process(
            target=_live, args=(self._config, self._place, theirs, os.getpid()), daemon=True
        )
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _NOTED)
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self._pauses.began()

    def _told(self) -> list[News]:
        news: list[News] = []
        try:
            while self._pipe is not None and self._pipe.poll():
                news.append(News(*self._pipe.recv()))
        except EOFError:
            pass
        return news

    def _bury(self) -> str:
        assert self._process is not None
        assert self._pipe is not None
        who, code, pause = str(self), self._process.exitcode or 0, self._pauses.ended()
        self._pipe.close()
        self._process.close()
        self._process = self._pipe = None
        self.ready = False
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
        return f"{who} {how}; it is started again in {pause:g} s"


def _live(config: GatewayConfig, place: Place, parent: Connection, parent_pid: int) -> None:
    """The process itself. The terminal's Ctrl-C is its parent's to hear, so it is in a session of its own."""
    die_with(parent_pid)
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # for as long as nothing here can be read again
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        sys.exit(serve(config, lambda moment, line: parent.send((moment, line)), place))
    except (GatewayError, OSError, ValueError) as error:
        parent.send(("failed", str(error)))
        sys.exit(2)
