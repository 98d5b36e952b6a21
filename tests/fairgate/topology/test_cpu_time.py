"""Processor time is that of the processes asked for, and nobody else's."""

import os
import subprocess
import sys
import time

import pytest

from fairgate.errors import ProcessError
from fairgate.topology.cpu_time import CpuMeter, CpuTime, cpu_seconds

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs proc(5) and clock_getcpuclockid(3)")


def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_what_this_process_uses_is_its_own():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as idle:
        cpu = CpuTime(busy=[os.getpid()], idle=[idle.pid], nobody=[])
        before = time.process_time()
        burn(0.1)
        used = time.process_time() - before
        spent = cpu.spent()
        idle.communicate(b"\n")
    assert used <= spent.cpu_s["busy"] < used + 0.1
    assert spent.cpu_s["nobody"] == 0.0
    assert spent.wall_s >= 0.1 * 0.5
    assert spent.others >= 0.0


def test_a_process_that_is_gone_is_named():
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    with pytest.raises(ProcessError, match=f"process {gone.pid}: .*needs Linux"):
        cpu_seconds(gone.pid)


def test_children_that_ended_count():
    meter = CpuMeter()
    subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)
    assert meter.cores() > 0
    assert "cores used by everything together" in str(meter)
