"""Processor time of processes: what some have used since a moment, and how busy the machine was with anything else."""

from __future__ import annotations

import ctypes
import os
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fairgate.errors import ProcessError


@dataclass(frozen=True)
class Spent:
    """Seconds by the clock, and of processor time by group of processes. `others`: cores that were busy meanwhile with
    anything but those processes."""

    wall_s: float
    cpu_s: Mapping[str, float]
    others: float


class CpuTime:
    """What groups of processes (ids by name) use from now on. Linux only."""

    def __init__(self, **groups: Sequence[int]) -> None:
        self._groups = groups
        self._machine, self._used, self._began = machine_seconds(), self._read(), time.perf_counter()

    def spent(self) -> Spent:
        """Since it was made. Raises ProcessError when a process is gone."""
        wall, used, machine = time.perf_counter() - self._began, self._read(), machine_seconds() - self._machine
        cpu = {name: seconds - self._used[name] for name, seconds in used.items()}
        return Spent(wall, cpu, max(0.0, machine - sum(cpu.values())) / wall)

    def _read(self) -> dict[str, float]:
        return {name: sum(map(cpu_seconds, pids)) for name, pids in self._groups.items()}


def cpu_seconds(pid: int) -> float:
    """What a process has used, over all threads, to the nanosecond (clock_getcpuclockid(3)). Raises ProcessError."""
    clock = ctypes.c_int()
    try:
        if error := ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock)):
            raise OSError(error, os.strerror(error))
        return time.clock_gettime(clock.value)
    except (OSError, AttributeError) as error:
        raise ProcessError(f"processor time of process {pid}: {error}; this benchmark needs Linux") from None


def children_of(pid: int) -> dict[int, str]:
    """Its children, and the name of the program that each runs (proc(5)). Raises ProcessError."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return {int(child): Path(f"/proc/{child}/comm").read_text().strip() for child in children}
    except OSError as error:
        raise ProcessError(f"children of process {pid}: {error}; this benchmark needs Linux") from None


def machine_seconds() -> float:
    """What all cores together have been busy (proc(5)). Raises ProcessError."""
    try:
        counted = Path("/proc/stat").read_text()
    except OSError as error:
        raise ProcessError(f"processor time of the machine: {error}; this benchmark needs Linux") from None
    user, nice, system, _, _, irq, softirq, steal = counted.split()[1:9]
    return sum(map(int, (user, nice, system, irq, softirq, steal))) / os.sysconf("SC_CLK_TCK")


class CpuMeter:
    """How many cores this process, and those of its children that have ended, used since it was made: for processes
    that come and go meanwhile, and for the word of every trial on how busy it kept the machine."""

    def __init__(self) -> None:
        self._began, self._used = time.monotonic(), _cpu_seconds()

    def cores(self) -> float:
        return (_cpu_seconds() - self._used) / (time.monotonic() - self._began)

    def __str__(self) -> str:
        return f"{self.cores():.2f} of {os.cpu_count()} cores used by everything together"


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
