"""`fairgate bench profile`: what it makes of py-spy's samples. py-spy itself is not needed: a script stands in."""

import shutil
import sys

import pytest

from fairgate.bench import gateway as bench
from fairgate.bench.gateway import LOADS
from fairgate.bench.gateway_profile import profile_gateway, record, top
from fairgate.bench.gateway_servers import needed
from fairgate.errors import ProcessError

RAW = """\
run (runners.py:1);serve (gateway/hotpath.py:10);write (gateway/http/server.py:7) 30
run (runners.py:1);serve (gateway/hotpath.py:12);write (gateway/http/server.py:9) 15
run (runners.py:1);serve (gateway/hotpath.py:10) 20
run (runners.py:1) 35
"""


@pytest.fixture
def py_spy(tmp_path):
    """Makes a program that is called like py-spy."""

    def make(script):
        path = tmp_path / "py-spy"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return make


def recorder():
    """Writes RAW where --output says."""
    return f'while [ "$1" != --output ]; do shift; done\ncat > "$2" <<END\n{RAW}END'


def test_a_function_is_told_with_what_ended_in_it_and_what_it_called():
    assert top(RAW).splitlines()[2:] == [
        "| write (gateway/http/server.py) | 45.0 | 45.0 |",
        "| run (runners.py) | 35.0 | 100.0 |",
        "| serve (gateway/hotpath.py) | 20.0 | 65.0 |",
    ]


def test_a_function_that_calls_itself_is_counted_once_and_a_bar_breaks_no_table():
    assert top("a (x.py:1);a (x.py:2);b|c (y.py:3) 1").splitlines()[2:] == [
        "| b\\|c (y.py) | 100.0 | 100.0 |",
    ]


def test_a_thread_that_waits_is_no_work():
    assert top("loop (x.py:1) 1\nwriter (y.py:5);Condition.wait (threading.py:359) 1").splitlines()[2:] == [
        "| loop (x.py) | 100.0 | 100.0 |",
    ]


def test_what_was_recorded_is_read(py_spy, tmp_path):
    assert record(py_spy(recorder()), 1, 1.0, tmp_path / "raw") == RAW


@pytest.mark.parametrize("script", ["echo not allowed >&2; exit 1", "echo not allowed >&2"])
def test_a_profiler_that_finds_nothing_says_why(py_spy, tmp_path, script):
    with pytest.raises(ProcessError, match="found nothing in process 1: not allowed"):
        record(py_spy(script), 1, 1.0, tmp_path / "raw")


@pytest.mark.skipif(sys.platform != "linux", reason="pins processes and reads their processor time")
def test_every_load_has_a_table(py_spy, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "SETTLE_S", 0.05)
    folder = tmp_path / "bench"
    folder.mkdir()
    told = profile_gateway(py_spy(recorder()), 1.0, folder)
    assert [line for line in told.splitlines() if line.startswith("##")] == [f"## {load.name}" for load in LOADS]
    assert told.count("| serve (gateway/hotpath.py) | 20.0 | 65.0 |") == len(LOADS)


def test_it_must_be_there(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("py-spy") is None
    with pytest.raises(ProcessError, match="no py-spy on PATH; expected it there, or its path by --py-spy"):
        needed("--py-spy", None, "py-spy")
