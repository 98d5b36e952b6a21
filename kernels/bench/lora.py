"""The lora ops on a grid of shapes, beside their peers, correctness first. Times come from a clock that is handed in:
CUDA events around a graph on a GPU, the wall clock in tests."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from kernels.bench.peers import FLOOR, OURS, PEERS, peer_case
from kernels.cases import LoraCase, lora_case, popularity
from kernels.choice import Clock
from kernels.lora.reference import lora_expand_reference, lora_shrink_reference

LLAMA_8B = {
    "qkv": (4096, (4096, 1024, 1024)),
    "o": (4096, (4096,)),
    "gate_up": (4096, (14336, 14336)),
    "down": (14336, (4096,)),
}
TOKENS = (1, 8, 64, 256, 1024, 4096)
ADAPTERS = (1, 8, 64, 256)
RANKS = {"8": (8,), "16": (16,), "64": (64,), "mixed": (8, 16, 32, 64, 128)}


@dataclass(frozen=True, slots=True)
class Shape:
    """One point of the grid; every adapter in it has a token, evenly drawn, sorted by adapter."""

    linear: str
    in_width: int
    widths: tuple[int, ...]
    tokens: int
    adapters: int
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """seconds: median by contender; refused: contender to the reason why it has no time; error: largest difference
    to the reference, over the largest value of the reference, by contender."""

    shape: Shape
    bytes: int
    flops: int
    seconds: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    error: dict[str, float] = field(default_factory=dict)

    def against(self, peer: str) -> float | None:
        """How many times faster than the peer; None where it has no time."""
        return self.seconds[peer] / self.seconds["fairgate"] if peer in self.seconds else None

    @property
    def against_best(self) -> float:
        """How many times faster than the best peer."""
        return min(time for name, time in self.seconds.items() if name in PEERS) / self.seconds["fairgate"]

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def grid() -> Iterator[Shape]:
    for tokens in TOKENS:
        for adapters in (count for count in ADAPTERS if count <= tokens):
            for ranks in RANKS.values():
                for linear, (in_width, widths) in LLAMA_8B.items():
                    yield Shape(linear, in_width, widths, tokens, adapters, ranks)


def make_case(shape: Shape, device: str, dtype: torch.dtype, seed: int) -> LoraCase:
    slots = sorted(popularity("distinct", shape.tokens, shape.adapters))
    return lora_case(
        slots,
        widths=shape.widths,
        in_width=shape.in_width,
        ranks=[shape.ranks[slot % len(shape.ranks)] for slot in range(shape.adapters)],
        dtype=dtype,
        device=device,
        seed=seed,
        scale=1.0,
    )


def bench_shape(shape: Shape, clock: Clock, device: str, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Row:
    """Checks and then times every contender on fresh random data."""
    case = make_case(shape, device, dtype, seed)
    row = Row(shape, _bytes(case), _flops(case))
    start, wanted = case.out.clone(), _wanted(case)
    peer = peer_case(case)
    for name, build in {**OURS, **PEERS, **FLOOR}.items():
        try:
            run = build(peer)
            case.out.copy_(start)
            run()
            if name not in FLOOR:
                row.error[name] = float((case.out.float() - wanted).abs().max() / wanted.abs().max())
            row.seconds[name] = clock(run)
        except Exception as error:  # a peer's package may be missing, or another version than the one called
            if name in OURS:
                raise
            row.refused[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return row


def _wanted(case: LoraCase) -> Tensor:
    out = case.out.float().clone()
    lora_expand_reference(out, lora_shrink_reference(case.x, case.weights, case.plan), case.weights, case.plan)
    return out


def _bytes(case: LoraCase) -> int:
    """What has to move at least: inputs once, outputs in and out, the rank rows of the adapters in the batch once."""
    weights = case.weights
    elements = case.x.numel() + 2 * case.out.numel()
    for segment in case.plan.segments:
        elements += weights.a.ranks[segment.slot] * weights.in_width
        elements += sum(b.ranks[segment.slot] * b.width for b in weights.b)
    return elements * case.x.element_size()


def _flops(case: LoraCase) -> int:
    """Two per multiply-add, at every adapter's true rank."""
    weights = case.weights
    return sum(
        2 * (segment.stop - segment.start) * b.ranks[segment.slot] * (weights.in_width + b.width)
        for segment in case.plan.segments
        for b in weights.b
    )


def table(rows: Sequence[Row], copy_bandwidth: float, matmul_rate: float) -> str:
    """Markdown: times in microseconds, ratios (above 1: we are faster), share of the measured limits."""
    lines = [
        "| layer | tokens | adapters | ranks | us | deterministic us | vs loop | vs all slots | vs vLLM | vs SGLang "
        "| copy bandwidth | matmul rate |",
        "|---" * 12 + "|",
    ]
    return "\n".join([*lines, *(_line(row, copy_bandwidth, matmul_rate) for row in rows)])


def _line(row: Row, copy_bandwidth: float, matmul_rate: float) -> str:
    shape, time = row.shape, row.seconds["fairgate"]
    ratios = [row.against(peer) for peer in PEERS]
    cells = [
        shape.linear,
        str(shape.tokens),
        str(shape.adapters),
        "/".join(map(str, shape.ranks)),
        f"{time * 1e6:.1f}",
        f"{row.seconds['fairgate deterministic'] * 1e6:.1f}",
        *("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
        f"{row.bytes / time / copy_bandwidth:.0%}",
        f"{row.flops / time / matmul_rate:.0%}",
    ]
    return f"| {' | '.join(cells)} |"


def summary(rows: Sequence[Row]) -> str:
    """The goal's figures in words."""
    ratios = [row.against_best for row in rows]
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    slower = sum(ratio < 1 / 1.05 for ratio in ratios)
    worst = max(row.error["fairgate"] for row in rows)
    refused = sorted({f"{name}: {why}" for row in rows for name, why in row.refused.items()})
    lines = [
        f"{len(rows)} shapes; {mean:.2f} times as fast as the best peer of each in geometric mean; slower than it by "
        f"more than 5 % on {slower}; largest error {worst:.1e} of the largest value.",
        *(f"No time for {reason}" for reason in refused),
    ]
    return "\n\n".join(lines)
