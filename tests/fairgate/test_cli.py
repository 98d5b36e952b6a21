"""The command line: help for newcomers, one message for bad input, the JSON contract."""

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from fairgate import cli

COMMANDS = (
    *("serve", "gateway", "worker", "simulate", "load", "compare", "workloads", "arena", "bench", "calibrate"),
    *("cluster", "mock-engine", "replicas", "chaos"),
)


def fairgate(*arguments):
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "fairgate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    result = CliRunner().invoke(cli.app, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output
    described = [line for line in result.output.splitlines() if "--" in line and "help" not in line]
    assert all(len(line.split()) > 4 for line in described if line.lstrip("│ *").startswith("--"))


def test_the_command_line_alone_loads_no_program_and_nothing_heavy():
    """`--help` is for newcomers, and every gateway and engine of a deployment starts through here."""
    heavy = {"gateway", "backend", "loadgen", "fairness", "kernels", "torch", "numpy", "aiohttp", "redis", "yaml"}
    code = "import sys, fairgate.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "typer" in result.stdout.split()
    assert not heavy & set(result.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["simulate", "--workload", "nope"], ["nope", "overload", "late-burst", "trace"]),
        (["simulate", "--workload", "overload", "--policy", "fifo"], ["fifo", "vtc", "rpm:LIMIT"]),
        (["simulate", "--workload", "overload", "--cost", "weighted:x"], ["weighted:x", "'x'", "NAME=NUMBER"]),
        (["simulate", "--workload", "overload", "--engine", "speed=1"], ["speed=1", "pool_tokens"]),
        (["simulate", "--workload", "overload", "--predict", "maybe"], ["maybe", "ewma", "oracle"]),
        (["simulate", "--workload", "overload", "--time-scale", "0"], ["0", "above 0"]),
        (["gateway", "--config", "no-such-file.yaml"], ["no-such-file.yaml", "expected a readable YAML file"]),
        (["worker", "--dtype", "int3"], ["--dtype", "int3", "bfloat16", "float32"]),
        (["worker", "--adapter", "sql"], ["--adapter", "sql", "NAME=FOLDER"]),
        (["worker", "--model", "no-such-folder", "--port", "0"], ["no-such-folder", "config.json"]),
        (["load", "--workload", "overload", "--key", "client-1"], ["--key", "client-1", "TENANT=KEY"]),
        (["load", "--workload", "overload", "--key", "client-1=k"], ["client-2", "API key"]),
    ],
)
def test_bad_input_ends_in_one_message_and_status_2(arguments, said):
    result = fairgate(*arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("fairgate: ")
    assert "Traceback" not in result.stderr + result.stdout
    for word in said:
        assert word in result.stderr


def test_simulate_writes_the_contract(tmp_path):
    file = tmp_path / "made" / "results.json"
    result = fairgate(
        "simulate", "--workload", "increase", "--policy", "vtc, rpm:20", "--time-scale", "1.5", "--json", str(file)
    )
    assert result.returncode == 0, result.stderr
    written = json.loads(file.read_text())
    assert list(written) == ["workload", "seed", "bound", "runs"]
    assert written["bound"] == 40_000
    assert [run["policy"] for run in written["runs"]] == ["vtc", "rpm:20"]
    run = written["runs"][0]
    assert list(run) == [
        "policy",
        "service_gap_max",
        "service_difference",
        "throughput_tokens_per_s",
        "requests",
        "jain",
        "ttft_s",
        "tenants",
    ]
    assert sum(tenant["finished"] for tenant in run["tenants"].values()) == run["requests"]["finished"]
    assert f"{run['service_gap_max']:,.0f}" in result.stdout
