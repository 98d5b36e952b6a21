"""The kernels on the machine at hand, as a report and as JSON: `fairgate bench kernels --out DIR`, and where only torch
is installed `python -m kernels.bench --out DIR`.

On a CUDA machine: correctness first, then the median of device-event times around a CUDA graph, the L2 cache flushed
before each, on fresh random data, within ten minutes. Everywhere: what LoRA adds on the CPU.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import torch

from kernels.bench import cpu as bench_cpu
from kernels.bench.lora import Row, bench_shape, grid, summary, table
from kernels.choice import Run

NOT_MEASURED = "Not measured yet: run `fairgate bench kernels --out DIR` on a CUDA machine."
GPU_LIMIT_S = 480.0
REPLAYS = 20
FLUSH_BYTES = 256 << 20


def main(out: Path, *, cpu_shape: bench_cpu.ModelShape = bench_cpu.SMOLLM2_135M) -> int:
    """Writes kernels.md and kernels.json into `out`. Returns 0, or 1 where one of our results is wrong."""
    out.mkdir(parents=True, exist_ok=True)
    gpu_text, gpu_json, wrong = _gpu() if torch.cuda.is_available() else (NOT_MEASURED, [], False)
    print("CPU part", file=sys.stderr, flush=True)
    cpu_rows = bench_cpu.run_all(cpu_shape)
    report = f"# Kernels\n\n{_versions()}\n\n## GPU\n\n{gpu_text}\n\n## CPU\n\n{bench_cpu.table(cpu_rows)}\n"
    (out / "kernels.md").write_text(report)
    cpu_json = [{"tokens": r.tokens, "drawn": r.popularity, "overhead": r.overhead} for r in cpu_rows]
    (out / "kernels.json").write_text(json.dumps({"gpu": gpu_json, "cpu": cpu_json}, indent=1))
    print(report)
    return 1 if wrong else 0


def _versions() -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    found = [f"{name} {_version(name)}" for name in ("torch", "triton", "vllm", "sglang")]
    return f"{device}; {platform.machine()} CPU, {torch.get_num_threads()} threads; {', '.join(found)}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _gpu() -> tuple[str, list[dict[str, object]], bool]:
    """(text, rows as JSON, whether a result of ours is wrong)."""
    clock = GraphClock()
    bandwidth, rate = copy_bandwidth(clock), matmul_rate(clock)
    shapes, rows = list(grid()), list[Row]()
    end = time.monotonic() + GPU_LIMIT_S
    for i, shape in enumerate(shapes):
        if time.monotonic() > end:
            break
        rows.append(bench_shape(shape, clock, "cuda", seed=i))
        print(f"\r{i + 1} of {len(shapes)} shapes", end="", file=sys.stderr, flush=True)
    limits = f"Copy {bandwidth / 1e9:.0f} GB/s, bf16 matmul {rate / 1e12:.0f} TFLOP/s, measured here."
    left = f" {len(shapes) - len(rows)} shapes did not fit the time." if len(rows) < len(shapes) else ""
    text = f"{limits}{left}\n\n{summary(rows)}\n\n{table(rows, bandwidth, rate)}"
    wrong = any(error > 0.02 for row in rows for name, error in row.error.items() if name.startswith("fairgate"))
    return text, [row.as_json() for row in rows], wrong


class GraphClock:
    """Seconds of one call on the device: the median over replays of its CUDA graph, each after a flush of the L2."""

    def __init__(self) -> None:
        self._flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")

    def __call__(self, run: Run) -> float:
        graph = self._capture(run)
        return median(self._replay(graph) for _ in range(REPLAYS))

    def _capture(self, run: Run) -> torch.cuda.CUDAGraph:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        return graph

    def _replay(self, graph: torch.cuda.CUDAGraph) -> float:
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self._flush.zero_()
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        return start.elapsed_time(stop) / 1e3


def copy_bandwidth(clock: GraphClock) -> float:
    """Bytes read and written per second by a copy of 1 GiB."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / clock(lambda: target.copy_(source))


def matmul_rate(clock: GraphClock, size: int = 8192) -> float:
    """Floating-point operations per second of a large bf16 product."""
    a = torch.randn((size, size), device="cuda").bfloat16()
    return 2 * size**3 / clock(lambda: a @ a)
