"""Where the gateway's time goes under the loads of `fairgate bench gateway`, as py-spy sees it.

py-spy (https://github.com/benfred/py-spy) stops the process for each sample, without which a third of the stacks are
torn: what is profiled is not measured. It is no dependency: `pip install --target FOLDER py-spy`, then `fairgate bench
profile --py-spy FOLDER/bin/py-spy`.

Only Python's functions are told. Where a system call or a library takes the time, which the function that calls it is
told to have taken, `py-spy record --native --format raw --pid PID` says more, beside a `bench gateway` that runs.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from fairgate.bench.gateway import LOADS, GatewayPlan, started
from fairgate.bench.gateway_servers import GATEWAY, UNLOGGED
from fairgate.bench.rounds import table
from fairgate.errors import ProcessError
from loadgen.progress import Progress, quiet

RATE = 500  # samples a second
MOST = 25  # functions that are told
WAITS = "(threading.py)"  # a thread that ends there waits for another, though py-spy takes it for busy


def profile_gateway(py_spy: str, seconds: float, folder: Path, progress: Progress = quiet) -> str:
    """A table for each load. Raises ProcessError."""
    told = []
    with started(GatewayPlan([UNLOGGED]), folder, progress) as bench:
        for place, load in enumerate(LOADS):
            progress(load.name, place / len(LOADS))
            with bench.loaded(load, GATEWAY):
                raw = record(py_spy, bench.places[GATEWAY][0], seconds, folder / f"{load.name}.raw")
            told.append(f"## {load.name}\n\n{top(raw)}")
    return "\n\n".join(told)


def record(py_spy: str, pid: int, seconds: float, path: Path) -> str:
    """Samples of a process, as py-spy's raw text: a line for each stack, outermost first, and how often it was seen.
    Raises ProcessError."""
    options = ["--format", "raw", "--rate", str(RATE), "--duration", str(max(1, round(seconds)))]
    command = [py_spy, "record", *options, "--output", str(path), "--pid", str(pid)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not path.exists():
        raise ProcessError(f"{py_spy} found nothing in process {pid}: {done.stderr.strip()[-500:]}")
    return path.read_text(errors="replace")


def top(raw: str) -> str:
    """The functions in which most samples ended, and those that had most of them on the stack; in per cent of all."""
    own, total, samples = _counts(line.rpartition(" ") for line in raw.splitlines() if " " in line)
    rows = [
        [_in_cells(name), f"{100 * count / samples:.1f}", f"{100 * total[name] / samples:.1f}"]
        for name, count in own.most_common(MOST)
    ]
    return table(["function", "itself, %", "with what it calls, %"], rows)


def _counts(lines: Iterable[tuple[str, str, str]]) -> tuple[Counter[str], Counter[str], int]:
    own, total, samples = Counter[str](), Counter[str](), 0
    for stack, _, count in lines:
        frames = [_function(frame) for frame in stack.split(";")]
        if frames[-1].endswith(WAITS):
            continue
        samples += int(count)
        own[frames[-1]] += int(count)
        for name in set(frames):
            total[name] += int(count)
    return own, total, samples


def _function(frame: str) -> str:
    """Without the line: `send (gateway/http/edge.py:12)` is a function, whichever of its lines ran."""
    return frame.rpartition(":")[0] + ")" if frame.endswith(")") and ":" in frame else frame


def _in_cells(name: str) -> str:
    return name.replace("|", "\\|")
