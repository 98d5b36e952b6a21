"""Paged attention on the CPU against plain attention over the same tokens laid out in a row."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from kernels import KernelError, paged_attention, plan_attention, write_pages
from kernels.attention.reference import paged_attention_reference
from kernels.cases import AttentionCase, attention_case

from ...rounding import RowsShow

LENGTHS = [(1, 1), (5, 70), (1, 130), (33, 33), (1, 129), (1, 190), (17, 100)]
SHAPE = {"heads": 6, "kv_heads": 2, "dim": 32, "page_tokens": 16}
SCALE = 0.2


def attend(case: AttentionCase, window: int | None = None) -> torch.Tensor:
    return paged_attention(case.q, case.keys, case.values, case.plan, scale=SCALE, window=window)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("window", [None, 1, 7, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_reference(dtype: torch.dtype, window: int | None, deterministic: bool) -> None:
    case = attention_case(LENGTHS, dtype=dtype, deterministic=deterministic, **SHAPE)
    wanted = paged_attention_reference(case.q, case.keys, case.values, case.plan, scale=SCALE, window=window)
    size = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(attend(case, window), wanted, rtol=size, atol=size)


@pytest.mark.parametrize("page_tokens", [1, 5, 64])
def test_the_reference_equals_torch_on_tokens_in_a_row(page_tokens: int) -> None:
    case = attention_case([(40, 40)], dtype=torch.float32, **{**SHAPE, "page_tokens": page_tokens})
    pages = case.plan.page_table[0].long()
    k, v = (cache[pages].flatten(0, 1)[:40].transpose(0, 1)[None] for cache in (case.keys, case.values))
    k, v = k.repeat_interleave(3, 1), v.repeat_interleave(3, 1)
    wanted = scaled_dot_product_attention(case.q.transpose(0, 1)[None], k, v, is_causal=True, scale=SCALE)
    found = paged_attention_reference(case.q, case.keys, case.values, case.plan, scale=SCALE)
    torch.testing.assert_close(found, wanted[0].transpose(0, 1))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 50])
def test_deterministic_tokens_depend_on_neither_company_nor_chunks(
    dtype: torch.dtype, window: int | None, threads: int
) -> None:
    torch.set_num_threads(threads)
    case = attention_case([(150, 150), (1, 90)], dtype=dtype, deterministic=True, **SHAPE)
    whole = attend(case, window)
    table = case.plan.page_table[0].tolist()
    for first, last in [(0, 1), (0, 16), (16, 130), (63, 65), (130, 150), (149, 150)]:
        plan = plan_attention([table], [last - first], [last], 16, deterministic=True)
        q = case.q[first:last]
        part = paged_attention(q, case.keys, case.values, plan, scale=SCALE, window=window)
        assert torch.equal(part, whole[first:last]), (first, last)


@pytest.mark.parametrize("deterministic", [False, True])
def test_control_chunks_show_without_the_deterministic_mode(deterministic: bool) -> None:
    """If the fast mode passed here, the test above would pass for the wrong reason."""
    case = attention_case([(150, 150)], dtype=torch.float32, deterministic=deterministic, **SHAPE)
    table = case.plan.page_table[0].tolist()
    plan = plan_attention([table], [1], [150], 16, deterministic=deterministic)
    with RowsShow():
        last = paged_attention(case.q[149:], case.keys, case.values, plan, scale=SCALE)
        assert torch.equal(last, attend(case)[149:]) == deterministic


def test_written_pages_are_read_back_and_others_left_alone() -> None:
    case = attention_case([(3, 20), (1, 5)], dtype=torch.float32, **SHAPE)
    before_keys, before_values = case.keys.clone(), case.values.clone()
    k, v = torch.randn(4, 2, 32), torch.randn(4, 2, 32)
    write_pages(case.keys, case.values, k, v, case.plan)
    for cache, before, new in ((case.keys, before_keys, k), (case.values, before_values, v)):
        flat, old = cache.flatten(0, 1), before.flatten(0, 1)
        assert torch.equal(flat[case.plan.new_slots], new)
        others = torch.ones(len(flat), dtype=torch.bool)
        others[case.plan.new_slots] = False
        assert torch.equal(flat[others].nan_to_num(), old[others].nan_to_num())


def test_shapes_that_do_not_fit_are_named() -> None:
    case = attention_case([(3, 20)], dtype=torch.float32, **SHAPE)
    with pytest.raises(KernelError, match="q has 2 rows; expected 3 as planned"):
        paged_attention(case.q[:2], case.keys, case.values, case.plan, scale=SCALE)
    with pytest.raises(KernelError, match="5 query heads; expected a multiple of the 2 kv heads"):
        paged_attention(case.q[:, :5], case.keys, case.values, case.plan, scale=SCALE)
    with pytest.raises(KernelError, match="pages of 8 tokens; expected 16 as planned"):
        paged_attention(case.q, case.keys[:, :8], case.values[:, :8], case.plan, scale=SCALE)
