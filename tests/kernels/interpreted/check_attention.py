"""The Triton attention kernels under Triton's interpreter. Run by test_triton.py, which sets TRITON_INTERPRET first."""

from __future__ import annotations

import math

import pytest
import torch

from kernels.attention.cuda import DETERMINISTIC, AttentionLaunch, attend_with, attention_call
from kernels.attention.plan import plan_attention
from kernels.attention.reference import paged_attention_reference
from kernels.cases import AttentionCase, attention_case

SCALE = 0.2
DECODE = [(1, 1), (1, 63), (1, 64), (1, 150)]
PREFILL = [(9, 9), (20, 70), (1, 33)]
LAUNCHES = {
    "whole": AttentionLaunch(1),
    "tiles": AttentionLaunch(16),
    "odd tiles, short stretches": AttentionLaunch(5, keys=32, stretch=64),
    "deterministic": DETERMINISTIC,
}


def check(launch: AttentionLaunch, case: AttentionCase, window: int | None = None) -> None:
    found = attend_with(launch, case.q, case.keys, case.values, case.plan, scale=SCALE, window=window)
    wanted = paged_attention_reference(case.q, case.keys, case.values, case.plan, scale=SCALE, window=window)
    size = 1e-5 if case.q.dtype == torch.float32 else 4e-3
    torch.testing.assert_close(found, wanted, rtol=size, atol=size)


@pytest.mark.parametrize("window", [None, 7, 100])
@pytest.mark.parametrize("lengths", [DECODE, PREFILL], ids=["decode", "prefill"])
@pytest.mark.parametrize("name", LAUNCHES)
def test_equals_reference(name: str, lengths: list[tuple[int, int]], window: int | None) -> None:
    deterministic = name == "deterministic"
    shape = {"heads": 6, "kv_heads": 2, "dim": 32, "page_tokens": 16, "deterministic": deterministic}
    check(LAUNCHES[name], attention_case(lengths, dtype=torch.float32, **shape), window)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "page_tokens"),
    [(9, 3, 64, 16), (4, 1, 256, 1), (8, 8, 80, 7), (8, 1, 128, 128)],
)
def test_model_shapes_in_half_precision(heads: int, kv_heads: int, dim: int, page_tokens: int) -> None:
    shape = {"heads": heads, "kv_heads": kv_heads, "dim": dim, "page_tokens": page_tokens}
    case = attention_case([(1, 100), (6, 30)], dtype=torch.float16, **shape)
    check(AttentionLaunch(1, stretch=64), case)
    check(AttentionLaunch(4), case, window=20)


def test_nothing_but_its_tokens_is_written() -> None:
    case = attention_case([(5, 20)], heads=4, kv_heads=2, dim=32, page_tokens=8, dtype=torch.float32)
    buffer = torch.full((9, 4, 40), math.nan)
    out, unused = buffer[2:7, :, :32], torch.empty(1, 1, 1, 1)
    attention_call(
        AttentionLaunch(4), out, unused, unused, case.q, case.keys, case.values, case.plan, False, SCALE, None
    ).run()
    assert out.isfinite().all()
    out.fill_(math.nan)
    assert buffer.isnan().all()


def test_deterministic_tokens_depend_on_neither_company_nor_chunks() -> None:
    shape = {"heads": 4, "kv_heads": 2, "dim": 32, "page_tokens": 16, "dtype": torch.float32}
    case = attention_case([(40, 40), (1, 90)], deterministic=True, **shape)
    whole = attend_with(DETERMINISTIC, case.q, case.keys, case.values, case.plan, scale=SCALE)
    table = case.plan.page_table[0].tolist()
    for first, last in [(0, 1), (16, 30), (39, 40)]:
        plan = plan_attention([table], [last - first], [last], 16, deterministic=True)
        part = attend_with(DETERMINISTIC, case.q[first:last], case.keys, case.values, plan, scale=SCALE)
        assert torch.equal(part, whole[first:last]), (first, last)
