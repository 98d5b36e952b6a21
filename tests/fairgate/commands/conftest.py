"""A command as a user runs it: a process of its own, what it says, and Ctrl-C."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from fairgate.topology.processes import Program, lasting_port

from .many import ENGINE, PATIENCE_S

WELCOME_ENDS = "Ctrl-C ends it"


def launch(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "fairgate", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"} | environment,
    )


class Command:
    """`said` is what it printed up to the end of its welcome."""

    def __init__(self, process):
        self.process = process
        self.said = self.read_until(WELCOME_ENDS)

    def read_until(self, words):
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if words in line:
                return "".join(lines)
        raise AssertionError(f"it ended before it said {words!r}:\n{''.join(lines)}")

    def end(self):
        """Ctrl-C. Returns the rest of what it says."""
        self.process.send_signal(signal.SIGINT)
        rest, _ = self.process.communicate(timeout=90)
        return rest


@contextmanager
def command(*arguments, kind=Command, **environment):
    process = launch(*arguments, **environment)
    try:
        yield kind(process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=90)
        process.stdout.close()


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """The port of a mock engine."""
    port, log = lasting_port(), tmp_path_factory.mktemp("engine") / "service.log"
    with Program("engine", *ENGINE.arguments(port, log)) as program:
        program.wait_ready(f"http://127.0.0.1:{port}/health", PATIENCE_S)
        yield port
