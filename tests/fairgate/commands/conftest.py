"""A command as a user runs it: a process of its own, what it says, and Ctrl-C."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

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
