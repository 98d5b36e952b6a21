"""Made-up batches and weights, for tests and benchmarks: who is popular, how ranks mix, where the weights lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.attention.plan import AttentionPlan, plan_attention
from kernels.errors import require
from kernels.lora.plan import BatchPlan, plan_batch
from kernels.lora.rows import PagedRows, RankRows, pack_rows
from kernels.lora.weights import LoraWeights

POPULARITIES = ("distinct", "uniform", "zipf", "identical")
ZIPF_EXPONENT = 1.5


def popularity(kind: str, tokens: int, adapters: int, seed: int = 0) -> list[int]:
    """The adapter slot of each token: all different as far as they reach, evenly drawn, drawn by Zipf's law, or one.

    Raises KernelError for another kind.
    """
    require(kind in POPULARITIES, f"popularity {kind!r} is unknown; expected one of {', '.join(POPULARITIES)}")
    generator = torch.Generator().manual_seed(seed)
    if kind == "distinct":
        return [row % adapters for row in range(tokens)]
    if kind == "identical":
        return [0] * tokens
    exponent = ZIPF_EXPONENT if kind == "zipf" else 0.0
    weights = torch.arange(1, adapters + 1, dtype=torch.float64) ** -exponent
    return [int(slot) for slot in torch.multinomial(weights, tokens, replacement=True, generator=generator)]


@dataclass(frozen=True)
class LoraCase:
    """Inputs of one lora op: out += scale * (x A) B."""

    x: Tensor
    out: Tensor
    weights: LoraWeights
    plan: BatchPlan


def lora_case(
    token_slots: Sequence[int],
    *,
    widths: Sequence[int],
    in_width: int,
    ranks: Sequence[int],
    dtype: torch.dtype,
    page: int | None = None,
    device: str = "cpu",
    deterministic: bool = False,
    seed: int = 0,
    scale: float | None = None,
) -> LoraCase:
    """Random numbers of about unit size; slot s has rank ranks[s % len(ranks)] in every slice.

    page   put the rank rows into shuffled pages of so many elements, whose unused parts are NaN
    scale  of every adapter and slice; None: they all differ
    """
    generator = torch.Generator(device).manual_seed(seed)
    slots = max(len(ranks), max(token_slots, default=-1) + 1)
    per_slot = [ranks[slot % len(ranks)] for slot in range(slots)]

    def rows(width: int, parts: int, size: float) -> RankRows:
        adapters = [torch.randn((rank * parts, width), generator=generator, device=device) * size for rank in per_slot]
        return _paged(adapters, width, page, dtype, device) if page else pack_rows(adapters, width, dtype, device)

    weights = LoraWeights(
        a=rows(in_width, len(widths), in_width**-0.5),
        b=tuple(rows(width, 1, max(1, max(per_slot)) ** -0.5) for width in widths),
        scales=tuple(
            tuple(0.5 + 0.25 * (slot % 4) + piece if scale is None else scale for slot in range(slots))
            for piece in range(len(widths))
        ),
    )
    x = torch.randn((len(token_slots), in_width), generator=generator, device=device)
    out = torch.randn((len(token_slots), sum(widths)), generator=generator, device=device)
    plan = plan_batch(token_slots, device=device, deterministic=deterministic)
    return LoraCase(x.to(dtype), out.to(dtype), weights, plan)


def _paged(adapters: Sequence[Tensor], width: int, page: int, dtype: torch.dtype, device: str) -> PagedRows:
    per_row = math.ceil(width / page)
    total = sum(len(rows) for rows in adapters) * per_row
    order = torch.randperm(total + 1, generator=torch.Generator().manual_seed(total)).tolist()
    pool = torch.full((total + 1, page), math.nan, dtype=dtype)
    numbers = iter(order)
    pages = []
    for rows in adapters:
        own = [next(numbers) for _ in range(len(rows) * per_row)]
        for at, number in enumerate(own):
            part = rows[at // per_row, at % per_row * page :][:page]
            pool[number, : len(part)] = part
        pages.append(tuple(own))
    return PagedRows(pool.to(device), tuple(pages), width)


@dataclass(frozen=True)
class AttentionCase:
    """Inputs of paged attention. Pages no sequence owns, and page tails past a context, are NaN."""

    q: Tensor
    keys: Tensor
    values: Tensor
    plan: AttentionPlan


def attention_case(
    lengths: Sequence[tuple[int, int]],
    *,
    heads: int,
    kv_heads: int,
    dim: int,
    page_tokens: int,
    dtype: torch.dtype,
    device: str = "cpu",
    deterministic: bool = False,
    seed: int = 0,
) -> AttentionCase:
    """lengths: per sequence (new tokens, context). Keys and values are views of one pool [pages, 2, ...]."""
    generator = torch.Generator().manual_seed(seed)
    needs = [math.ceil(context / page_tokens) for _, context in lengths]
    numbers = iter(torch.randperm(sum(needs) + 1, generator=generator).tolist())
    tables = [[next(numbers) for _ in range(need)] for need in needs]
    pool = torch.full((sum(needs) + 1, 2, page_tokens, kv_heads, dim), math.nan)
    for (_, context), table in zip(lengths, tables, strict=True):
        for position in range(context):
            entry = torch.randn((2, kv_heads, dim), generator=generator)
            pool[table[position // page_tokens], :, position % page_tokens] = entry
    plan = plan_attention(
        tables,
        [new for new, _ in lengths],
        [context for _, context in lengths],
        page_tokens,
        device=device,
        deterministic=deterministic,
    )
    q = torch.randn((plan.tokens, heads, dim), generator=generator).to(device, dtype)
    placed = pool.to(device, dtype)
    return AttentionCase(q, placed[:, 0], placed[:, 1], plan)
