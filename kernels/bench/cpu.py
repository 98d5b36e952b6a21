"""What LoRA adds to a step on the CPU: the lora ops of all layers against the base products of all layers.

    python -m kernels.bench.cpu                            bf16, SmolLM2-135M shapes, rank 16, 8 adapters
    python -m kernels.bench.cpu --clock cpu --threads 1    the same in CPU seconds: for a machine that others use too

Base and LoRA take turns, so that a busy machine slows both; the least of the repetitions counts, since other work
only ever adds to a time. Each repetition walks through all layers' weights (212 MB base), which no cache of this
class of machine holds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from time import process_time

import torch
from torch import Tensor
from torch.nn.functional import linear

from kernels.cases import lora_case, popularity
from kernels.choice import Clock, Run, wall_seconds
from kernels.lora.ops import lora_add
from kernels.lora.plan import BatchPlan, plan_batch
from kernels.lora.weights import LoraWeights


def cpu_seconds(run: Run) -> float:
    """CPU seconds of this process, over all its threads."""
    start = process_time()
    run()
    return process_time() - start


CLOCKS: dict[str, Clock] = {"wall": wall_seconds, "cpu": cpu_seconds}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The linear layers of one transformer layer: (input width, widths of the fused slices)."""

    name: str
    layers: int
    linears: tuple[tuple[int, tuple[int, ...]], ...]


SMOLLM2_135M = ModelShape(
    "SmolLM2-135M", 30, ((576, (576, 192, 192)), (576, (576,)), (576, (1536, 1536)), (1536, (576,)))
)


@dataclass(frozen=True, slots=True)
class CpuRow:
    """Seconds per step, over all layers."""

    tokens: int
    popularity: str
    base: float
    lora: float
    deterministic: float

    @property
    def overhead(self) -> float:
        return self.lora / self.base

    @property
    def deterministic_overhead(self) -> float:
        return self.deterministic / self.base


@dataclass(frozen=True)
class Model:
    """All linear layers of a model, with the weights of all adapters."""

    shape: ModelShape
    base: tuple[Tensor, ...]
    lora: tuple[LoraWeights, ...]

    @property
    def adapters(self) -> int:
        return len(self.lora[0].a.ranks)


def make_model(shape: ModelShape, *, rank: int = 16, adapters: int = 8, dtype: torch.dtype = torch.bfloat16) -> Model:
    base, lora = [], []
    for layer in range(shape.layers):
        for in_width, widths in shape.linears:
            base.append(torch.randn((sum(widths), in_width), dtype=dtype))
            ranks = (rank,) * adapters
            lora.append(lora_case([], widths=widths, in_width=in_width, ranks=ranks, dtype=dtype, seed=layer).weights)
    return Model(shape, tuple(base), tuple(lora))


def measure(model: Model, tokens: int, kind: str, repetitions: int = 15, clock: Clock = wall_seconds) -> CpuRow:
    """Times one batch; `kind` as in `kernels.cases.popularity`."""
    slots = popularity(kind, tokens, model.adapters)
    plan, fixed = plan_batch(slots), plan_batch(slots, deterministic=True)
    dtype = model.base[0].dtype
    inputs = [torch.randn((tokens, in_width)).to(dtype) for in_width, _ in model.shape.linears] * model.shape.layers
    outputs = [torch.randn((tokens, sum(widths))).to(dtype) for _, widths in model.shape.linears] * model.shape.layers

    def run_base() -> None:
        for x, weight in zip(inputs, model.base, strict=True):
            linear(x, weight)

    def run_lora(plan: BatchPlan) -> None:
        for out, x, weights in zip(outputs, inputs, model.lora, strict=True):
            lora_add(out, x, weights, plan)

    with torch.inference_mode():
        run_base(), run_lora(plan), run_lora(fixed)
        pairs = [(clock(run_base), clock(lambda: run_lora(plan))) for _ in range(repetitions)]
        deterministic = min(clock(lambda: run_lora(fixed)) for _ in range(max(1, repetitions // 5)))
    base, lora = (min(column) for column in zip(*pairs, strict=True))
    return CpuRow(tokens, kind, base, lora, deterministic)


def table(rows: Sequence[CpuRow]) -> str:
    """Markdown."""
    lines = [
        "| tokens | adapters drawn | base ms | LoRA ms | LoRA / base | deterministic / base |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.tokens} | {row.popularity} | {row.base * 1e3:.1f} | {row.lora * 1e3:.1f} "
        f"| {row.overhead:.2f} | {row.deterministic_overhead:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


def run_all(
    shape: ModelShape = SMOLLM2_135M,
    tokens: Sequence[int] = (8, 32, 256),
    repetitions: int = 15,
    clock: Clock = wall_seconds,
) -> list[CpuRow]:
    """Every token count with every way of drawing adapters that makes a difference; says how far it is on stderr."""
    model = make_model(shape)
    rows = []
    for count in tokens:
        for kind in ("distinct", "zipf", "identical"):
            rows.append(measure(model, count, kind, repetitions, clock))
            print(f"{count} tokens, {kind}: LoRA adds {rows[-1].overhead:.2f} of the base", file=sys.stderr, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="What LoRA adds to a step on the CPU.")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="wall: elapsed seconds; cpu: this process's")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument("--repetitions", type=int, default=15, help="of each batch; the least time counts")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    print(table(run_all(repetitions=chosen.repetitions, clock=CLOCKS[chosen.clock])))


if __name__ == "__main__":
    main()
