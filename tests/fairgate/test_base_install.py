"""What the base install does without its extras: every command but the worker, and reports say what they need."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

EXTRAS = ("matplotlib", "torch", "triton", "transformers")
WITHOUT_EXTRAS = f"""
import sys


class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Blocked())
"""
COMMANDS = (
    *("serve", "cluster", "gateway", "worker", "mock-engine", "simulate", "workloads", "load", "compare", "arena"),
    *("calibrate", "bench", "replicas", "chaos"),
)


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)


def fairgate(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, where no extra can be imported."""
    return run_python(f"{WITHOUT_EXTRAS}\nfrom fairgate.cli import main\nsys.argv[1:] = {arguments!r}\nmain()")


def test_every_command_explains_itself() -> None:
    code = f"""{WITHOUT_EXTRAS}
from typer.testing import CliRunner
from fairgate.cli import app
for command in {COMMANDS}:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0 and "Usage:" in result.output, (command, result.output)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_simulate_runs_and_shows_its_table() -> None:
    done = fairgate("simulate", "--workload", "late-burst", "--policy", "vtc,fcfs")
    assert done.returncode == 0, done.stderr
    assert "largest service gap" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("simulate", "--workload", "late-burst", "--out", "report"),
        ("compare", "--out", "report"),
        ("compare", "--suite", "paper", "--out", "report"),
        ("compare", "--live", "--out", "report"),
    ],
    ids=lambda arguments: " ".join(arguments[:3]),
)
def test_a_report_names_its_extra_before_anything_runs(arguments: tuple[str, ...]) -> None:
    done = fairgate(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""  # no table either: nothing was simulated
    (line,) = done.stderr.splitlines()
    assert "matplotlib" in line
    assert "pip install 'fairgate[report]'" in line


def test_the_worker_names_its_extra() -> None:
    done = fairgate("worker")
    assert done.returncode == 2
    assert "pip install 'fairgate[worker]'" in done.stderr


def test_the_gateway_loads_neither_pictures_nor_models_nor_the_load_generator() -> None:
    heavy = ("matplotlib", "numpy", "torch", "loadgen")
    done = run_python(f"import sys, gateway.main; print(*sorted({set(heavy)!r} & set(sys.modules)))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
