"""Options of `fairgate replicas` that cannot be used."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["shares", "--replicas", "two"], "--replicas two: expected whole numbers of at least 1"),
        (["shares", "--weights", "4"], "--weights 4: expected two numbers above 0"),
        (["bound", "--workload", "nothing.csv"], "'nothing.csv' is neither a name nor a file"),
        (["bound", "--policy", "best"], "policy 'best'"),
    ],
)
def test_mistakes_are_one_message(options, said):
    done = subprocess.run([sys.executable, "-m", "fairgate", "replicas", *options], capture_output=True, text=True)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
