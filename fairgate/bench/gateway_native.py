"""Engine and client of `fairgate bench gateway` as processes: in C where a compiler is there, else in Python.

In Python they use more of their core than what is measured uses of its own, which is then seldom busy. The processor
time of a request stays what it is, a little higher, since each wake-up serves fewer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from select import select
from typing import NamedTuple

from fairgate.bench.gateway_engine import write_pieces
from fairgate.errors import ProcessError
from fairgate.topology.processes import tied

PATIENCE_S = 60.0
ENGINE, CLIENT = "gateway_engine", "gateway_client"


def compiled(folder: Path, compiler: str | None) -> dict[str, list[str]]:
    """The commands of engine and client, compiled into `folder` when there is a compiler. Raises ProcessError."""
    if compiler is None:
        return {name: [sys.executable, "-m", f"fairgate.bench.{name}"] for name in (ENGINE, CLIENT)}
    return {name: [_compile(name, folder, compiler)] for name in (ENGINE, CLIENT)}


def find_compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def _compile(name: str, folder: Path, compiler: str) -> str:
    program = folder / name
    with as_file(files("fairgate.bench") / f"{name}.c") as source:
        done = subprocess.run([compiler, "-O2", "-o", program, source], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ProcessError(f"{compiler} could not compile {name}.c: {done.stderr.strip()[-500:]}")
    return str(program)


@contextmanager
def pinned(cores: set[int]) -> Iterator[None]:
    """Processes that are started meanwhile, by this thread, run on `cores`."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Talker:
    """A process that prints a line when it has something to say, and whose last words are on its error output."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._name = Path(command[0]).name
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                tied(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
            )
        self.pid = self._process.pid

    def say(self) -> None:
        """An empty line. Raises ProcessError."""
        try:
            os.write(self._process.stdin.fileno(), b"\n")  # type: ignore[union-attr] # it is a pipe
        except BrokenPipeError:
            raise self._ended() from None

    def hear(self) -> list[int]:
        """The numbers of a line. Raises ProcessError when it ends, or says nothing for long."""
        pipe = self._process.stdout
        if pipe is None or not select([pipe], [], [], PATIENCE_S)[0]:
            raise ProcessError(f"{self._name} said nothing for {PATIENCE_S:.0f} s")
        if not (line := pipe.readline()):
            raise self._ended()
        return [int(word) for word in line.split()]

    def stop(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.kill()
        self._process.wait()

    def _ended(self) -> ProcessError:
        self._process.wait()
        return ProcessError(f"{self._name}: {self._log.read_text(errors='replace').strip()[-800:]}")


class Counted(NamedTuple):
    """Answers and events that came, and the median of the microseconds that an answer took."""

    answers: int
    events: int
    middle_us: int


class Client:
    """A closed loop over so many connections to `port`, until it is stopped. Each answer must have `events`; 0: it is
    not streamed."""

    def __init__(
        self, command: Sequence[str], port: int, connections: int, events: int, requests: Sequence[bytes], folder: Path
    ) -> None:
        path = write_pieces(folder / "requests", requests)
        arguments = (str(port), str(connections), str(events), str(path))
        self._talker = Talker([*command, *arguments], folder / "client.log")
        self.pid = self._talker.pid

    def count(self, seconds: float, least: int = 1) -> Counted:
        """What comes within so many seconds, or until there are `least` events (or answers that are not streamed): a
        busy machine may take longer. Raises ProcessError when an answer is not what it should be, or none comes."""
        found, deadline = Counted(0, 0, 0), time.monotonic() + PATIENCE_S
        self.told()
        while (found.events or found.answers) < least:
            if time.monotonic() > deadline:
                raise ProcessError(f"{found.answers} answers and {found.events} events came in {PATIENCE_S:.0f} s")
            time.sleep(seconds)
            told = self.told()
            found = Counted(found.answers + told.answers, found.events + told.events, told.middle_us)
        return found

    def told(self) -> Counted:
        """Since it was asked before."""
        self._talker.say()
        return Counted(*self._talker.hear())

    def close(self) -> None:
        self._talker.stop()
