"""Compiles every Triton kernel as the launchers would launch it, for GPUs that need not be there.

    python -m kernels.compile_check        one line per kernel; exit 1 on a compile error, a spill, or 2-byte loads

A launch is described with tensors on the CPU: the compiler looks at their types and alignment only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from kernels.attention import cuda as attention_cuda
from kernels.attention.cuda import AttentionLaunch
from kernels.attention.plan import plan_attention
from kernels.cases import lora_case
from kernels.errors import KernelError
from kernels.launch import KernelCall
from kernels.lora import cuda as lora_cuda
from kernels.lora.cuda import Launch

CAPABILITIES = (80, 90)


def calls() -> Iterator[tuple[str, KernelCall]]:
    """(description, call) of every kernel and shape of launch that the dispatch can choose."""
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        thorough = dtype == torch.bfloat16
        for launch in lora_launches(dtype) if thorough else lora_launches(dtype)[-3:]:
            for page in (None, 256) if thorough else (256,):
                yield from _lora_calls(launch, dtype, page)
        for dim in (64, 128, 256) if thorough else (64,):
            yield from _attention_calls(dim, dtype)


def lora_launches(dtype: torch.dtype) -> list[Launch]:
    """The smallest rank step with splits, and the largest without, of every strategy; and the deterministic mode's."""
    strategies = lora_cuda.strategies(dtype).values()
    small = [lora_cuda.sized(launch, 16, 4) for launch in strategies]
    large = [lora_cuda.sized(launch, lora_cuda.most_rank(launch), 1) for launch in strategies]
    return [*small, *large, lora_cuda.DETERMINISTIC]


def _lora_calls(launch: Launch, dtype: torch.dtype, page: int | None) -> Iterator[tuple[str, KernelCall]]:
    case = lora_case([0, 0, 1], widths=(256, 128), in_width=512, ranks=(launch.rank, 8), dtype=dtype, page=page)
    shrunk = torch.empty((launch.splits, 3, case.weights.a.max_rank))
    what = f"{str(dtype)[6:]} {'paged' if page else 'dense'} {launch}"
    yield f"shrink {what}", lora_cuda.shrink_call(launch, shrunk, case.x, case.weights, case.plan)
    yield f"expand {what}", lora_cuda.expand_call(launch, case.out, shrunk, case.weights, case.plan)


def _attention_calls(dim: int, dtype: torch.dtype) -> Iterator[tuple[str, KernelCall]]:
    decode, prefill = attention_cuda.tile_launch(dtype, 4, True), attention_cuda.tile_launch(dtype, 4, False)
    yield _attention_call(attention_cuda.DETERMINISTIC, dim, dtype, None)
    yield _attention_call(replace(decode, stretch=256), dim, dtype, None)
    yield _attention_call(decode, dim, dtype, 512)
    yield _attention_call(prefill, dim, dtype, None)
    if dim == 256:
        yield _attention_call(prefill, dim, dtype, 512)
        yield "join", attention_cuda.join_call(torch.empty((2, 8, dim), dtype=dtype), *_partials(3, 2, 8, dim))


def _partials(stretches: int, tokens: int, heads: int, dim: int) -> tuple[Tensor, Tensor]:
    return torch.empty((stretches, tokens, heads, dim)), torch.empty((stretches, tokens, heads, 2))


def _attention_call(
    launch: AttentionLaunch, dim: int, dtype: torch.dtype, window: int | None
) -> tuple[str, KernelCall]:
    cache = torch.empty((4, 16, 2, dim), dtype=dtype)
    plan = plan_attention([[0, 1, 2, 3]], [32], [64], 16)
    q, split = torch.empty((32, 8, dim), dtype=dtype), launch.stretch is not None
    partial, stats = _partials(1, 32, 8, dim)
    call = attention_cuda.attention_call(launch, q, partial, stats, q, cache, cache, plan, split, 0.125, window)
    return f"attention {str(dtype)[6:]} dim {dim} window {window} {launch}", call


def main() -> int:
    failures = 0
    for capability in CAPABILITIES:
        for what, call in calls():
            failures += not _report(what, call, capability)
    print(f"{failures} of the kernels fail" if failures else "every kernel compiles, none spills")
    return 1 if failures else 0


def _report(what: str, call: KernelCall, capability: int) -> bool:
    try:
        used = call.compile(capability)
    except KernelError as error:
        print(f"FAIL sm_{capability} {what}: {error}", flush=True)
        return False
    good = not used.spills and used.scalar_half_loads == 0
    print(f"{'ok  ' if good else 'FAIL'} sm_{capability} {what}: {used}", flush=True)
    return good


if __name__ == "__main__":
    sys.exit(main())
