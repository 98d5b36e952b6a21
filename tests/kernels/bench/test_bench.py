"""The benchmarks measure the right thing: every contender computes the same sums, and the reports say what they saw."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kernels.bench import cpu as bench_cpu
from kernels.bench import report as bench
from kernels.bench.lora import Row, Shape, bench_shape, grid, summary, table
from kernels.bench.peers import PEERS
from kernels.choice import wall_seconds

ROOT = Path(__file__).parents[3]
TINY = bench_cpu.ModelShape("tiny", 1, ((32, (32, 16, 16)), (64, (32,))))
SHAPES = [
    Shape("qkv", 64, (64, 32, 32), tokens=9, adapters=3, ranks=(8, 16)),
    Shape("o", 64, (64,), tokens=4, adapters=4, ranks=(4,)),
    Shape("down", 96, (48,), tokens=17, adapters=1, ranks=(16,)),
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.linear)
def test_every_contender_that_runs_computes_the_same(shape: Shape) -> None:
    row = bench_shape(shape, wall_seconds, "cpu", torch.float32)
    assert {"fairgate", "fairgate deterministic", "adapter loop", "all slots"} <= set(row.error)
    assert max(row.error.values()) < 1e-5
    assert set(row.seconds) | set(row.refused) == {"fairgate", "fairgate deterministic", "merged", *PEERS}


def test_a_peer_that_is_not_installed_is_named_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "vllm", None)
    row = bench_shape(SHAPES[0], wall_seconds, "cpu", torch.float32)
    assert "vllm" in row.refused["vllm"]
    assert row.against("vllm") is None


def test_bytes_and_operations_are_those_of_true_ranks() -> None:
    row = bench_shape(Shape("x", 10, (6,), tokens=3, adapters=2, ranks=(2, 4)), wall_seconds, "cpu", torch.float32)
    assert row.bytes == 4 * (3 * 10 + 2 * 3 * 6 + (2 + 4) * (10 + 6))
    assert row.flops == 2 * (2 * 2 + 1 * 4) * (10 + 6)


def test_the_grid_covers_what_the_goal_names() -> None:
    shapes = list(grid())
    assert {shape.tokens for shape in shapes} >= {1, 4096}
    assert {shape.adapters for shape in shapes} >= {1, 256}
    assert all(shape.adapters <= shape.tokens for shape in shapes)


def _row(ours: float, peer: float) -> Row:
    seconds = {"fairgate": ours, "fairgate deterministic": ours, "adapter loop": peer, "all slots": 2 * peer}
    return Row(SHAPES[0], bytes=1000, flops=2000, seconds=seconds, error={"fairgate": 1e-3})


def test_the_summary_takes_the_best_peer_and_the_geometric_mean() -> None:
    text = summary([_row(1.0, 2.0), _row(1.0, 0.5)])
    assert "2 shapes; 1.00 times as fast" in text
    assert "more than 5 % on 1;" in text


def test_the_table_states_shares_of_the_limits() -> None:
    line = table([_row(1.0, 2.0)], copy_bandwidth=2000, matmul_rate=8000).splitlines()[-1]
    assert "| 2.00 | 4.00 | - | - | 50% | 25% |" in line


def test_the_cpu_part_measures_every_way_of_drawing() -> None:
    rows = bench_cpu.run_all(TINY, tokens=(2, 5), repetitions=2)
    assert [(row.tokens, row.popularity) for row in rows] == [
        (tokens, kind) for tokens in (2, 5) for kind in ("distinct", "zipf", "identical")
    ]
    assert all(math.isfinite(row.overhead) and row.overhead > 0 for row in rows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without CUDA gets")
def test_without_cuda_the_report_says_that_the_gpu_was_not_measured(tmp_path: Path) -> None:
    assert bench.main(tmp_path / "new", cpu_shape=TINY) == 0
    assert bench.NOT_MEASURED in (tmp_path / "new" / "kernels.md").read_text()
    written = json.loads((tmp_path / "new" / "kernels.json").read_text())
    assert written["gpu"] == []
    assert {row["tokens"] for row in written["cpu"]} == {8, 32, 256}


ONLY_TORCH = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("triton", "numpy", "typer", "rich", "pydantic", "yaml", "fairgate"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""


def only_torch(code: str) -> subprocess.CompletedProcess[str]:
    """A process that finds torch and what Python brings, and nothing else that the project uses."""
    command = [sys.executable, "-W", "ignore", "-c", ONLY_TORCH + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)


def test_the_benchmark_starts_where_only_torch_is_installed() -> None:
    done = only_torch("import runpy; sys.argv[1:] = ['--help']; runpy.run_module('kernels.bench', run_name='__main__')")
    assert done.returncode == 0, done.stderr
    assert "--out" in done.stdout


def test_the_cpu_part_runs_where_only_torch_is_installed() -> None:
    code = """
from kernels.bench.cpu import ModelShape, run_all, table
print(table(run_all(ModelShape("tiny", 1, ((32, (32,)),)), tokens=(2,), repetitions=1)))
"""
    done = only_torch(code)
    assert done.returncode == 0, done.stderr
    assert "| 2 | identical |" in done.stdout
