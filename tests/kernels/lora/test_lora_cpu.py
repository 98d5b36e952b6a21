"""Every CPU strategy does what the plain reference does; the deterministic one does it bit for bit alone and in
company."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kernels import BatchPlan, KernelError, LoraWeights, lora_add, lora_expand, lora_shrink, pack_rows, plan_batch
from kernels.cases import POPULARITIES, LoraCase, lora_case, popularity
from kernels.lora.grouped import add_grouped
from kernels.lora.masked import add_masked
from kernels.lora.reference import lora_expand_reference, lora_shrink_reference
from kernels.lora.tiles import add_tiles

from ...rounding import RowsShow

Add = Callable[[Tensor, Tensor, LoraWeights, BatchPlan], None]
SHAPE = {"widths": (576, 192, 192), "in_width": 640}
RANKS = (16, 8, 0, 3, 16, 33)
DTYPES = [torch.float32, torch.bfloat16]


def _shrink_then_expand(out: Tensor, x: Tensor, weights: LoraWeights, plan: BatchPlan) -> None:
    lora_expand(out, lora_shrink(x, weights, plan), weights, plan)


STRATEGIES: dict[str, Add] = {
    "grouped": add_grouped,
    "masked": add_masked,
    "tiles": add_tiles,
    "chosen": lora_add,
    "in two calls": _shrink_then_expand,
}


def expected(case: LoraCase) -> Tensor:
    out = case.out.float().clone()
    shrunk = lora_shrink_reference(case.x, case.weights, case.plan)
    lora_expand_reference(out, shrunk, case.weights, case.plan)
    return out


def assert_close(found: Tensor, wanted: Tensor) -> None:
    size = 1e-4 if found.dtype == torch.float32 else 6e-2
    torch.testing.assert_close(found.float(), wanted, rtol=size / 4, atol=size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, 63, 200])
@pytest.mark.parametrize("kind", POPULARITIES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_strategy_equals_reference(strategy: str, kind: str, tokens: int, dtype: torch.dtype) -> None:
    case = lora_case(popularity(kind, tokens, 6), ranks=RANKS, dtype=dtype, **SHAPE)
    wanted = expected(case)
    STRATEGIES[strategy](case.out, case.x, case.weights, case.plan)
    assert_close(case.out, wanted)


@pytest.mark.parametrize("deterministic", [False, True])
def test_pages_give_what_dense_rows_give(deterministic: bool) -> None:
    slots = [2, 0, -1, 5, 5, 4, 0, 1, 3] * 5
    shape = {**SHAPE, "ranks": RANKS, "dtype": torch.float32, "deterministic": deterministic}
    dense, paged = lora_case(slots, **shape), lora_case(slots, page=192, **shape)
    lora_add(dense.out, dense.x, dense.weights, dense.plan)
    lora_add(paged.out, paged.x, paged.weights, paged.plan)
    assert_close(paged.out, dense.out)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_tokens_without_an_adapter_are_left_alone(strategy: str) -> None:
    case = lora_case([1, -1, 0, -1], ranks=(4, 2), dtype=torch.float32, **SHAPE)
    before = case.out.clone()
    STRATEGIES[strategy](case.out, case.x, case.weights, case.plan)
    assert torch.equal(case.out[[1, 3]], before[[1, 3]])
    assert not torch.equal(case.out[[0, 2]], before[[0, 2]])


@pytest.mark.parametrize("slots", [[], [-1, -1], [2, 2]])
def test_no_adapter_and_rank_zero_change_nothing(slots: list[int]) -> None:
    case = lora_case(slots, ranks=(4, 4, 0), dtype=torch.float32, **SHAPE)
    before = case.out.clone()
    lora_add(case.out, case.x, case.weights, case.plan)
    assert torch.equal(case.out, before)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_huge_activation_of_one_tenant_does_not_reach_another(strategy: str) -> None:
    """Its product overflows to infinity, and infinity times the zero of another tenant's mask would be NaN."""
    case = lora_case([0, 1, 2], ranks=(8, 8, 8), dtype=torch.float32, **SHAPE)
    alone = case.out.clone()
    STRATEGIES[strategy](alone, case.x, case.weights, case.plan)
    case.x[1] = 3e38
    STRATEGIES[strategy](case.out, case.x, case.weights, case.plan)
    assert_close(case.out[[0, 2]], alone[[0, 2]])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strategy", ["chosen", "in two calls"])
def test_deterministic_rows_do_not_depend_on_company(strategy: str, dtype: torch.dtype, threads: int) -> None:
    torch.set_num_threads(threads)
    slots = popularity("zipf", 70, 6, seed=3)
    together = lora_case(slots, ranks=RANKS, dtype=dtype, deterministic=True, **SHAPE)
    start = together.out.clone()
    STRATEGIES[strategy](together.out, together.x, together.weights, together.plan)
    for company in ([5], [69, 5, 12], list(range(69, -1, -2)), list(range(1, 50))):
        out = start[company].clone()
        plan = plan_batch([slots[row] for row in company], deterministic=True)
        STRATEGIES[strategy](out, together.x[company], together.weights, plan)
        assert torch.equal(out, together.out[company]), company


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [37, 576])
def test_deterministic_rows_do_not_depend_on_where_their_adapter_lies(dtype: torch.dtype, width: int) -> None:
    """Packing it behind another adapter's rows moves it in memory, off the boundaries that vector loads like."""
    mine_a, mine_b, x, start = (
        torch.randn(5, width),
        torch.randn(5, width),
        torch.randn(3, width),
        torch.zeros(3, width),
    )
    found = []
    for others in range(4):
        stranger = [torch.randn(others, width)] if others else []
        a, b = (pack_rows([*stranger, mine], width, dtype) for mine in (mine_a, mine_b))
        weights = LoraWeights(a, (b,), ((1.0,) * len(a.ranks),))
        out = start.to(dtype)
        lora_add(out, x.to(dtype), weights, plan_batch([len(stranger)] * 3, deterministic=True))
        found.append(out)
    assert all(torch.equal(out, found[0]) for out in found)


@pytest.mark.parametrize("deterministic", [False, True])
def test_control_company_shows_without_the_deterministic_mode(deterministic: bool) -> None:
    """If the fast mode passed here, the test above would pass for the wrong reason."""
    case = lora_case([0] * 64, ranks=(16,), dtype=torch.float32, deterministic=deterministic, **SHAPE)
    alone = case.out[:1].clone()
    with RowsShow():
        lora_add(case.out, case.x, case.weights, case.plan)
        lora_add(alone, case.x[:1], case.weights, plan_batch([0], deterministic=deterministic))
    assert torch.equal(alone, case.out[:1]) == deterministic


def test_control_another_adapter_is_not_close() -> None:
    case = lora_case([0, 1, 2], ranks=(8, 8, 8), dtype=torch.float32, **SHAPE)
    wanted = expected(replace(case, plan=plan_batch([0, 2, 1])))
    lora_add(case.out, case.x, case.weights, case.plan)
    with pytest.raises(AssertionError):
        assert_close(case.out, wanted)


def test_out_may_be_a_view_of_a_wider_buffer() -> None:
    case = lora_case([0, 1, 1], ranks=(8, 4), dtype=torch.float32, **SHAPE)
    buffer = torch.full((3, 1000), math.nan)
    out = buffer[:, 20:980]
    out.copy_(case.out)
    wanted = expected(case)
    lora_add(out, case.x, case.weights, case.plan)
    assert_close(out, wanted)
    assert buffer[:, :20].isnan().all()
    assert buffer[:, 980:].isnan().all()


def test_shapes_that_do_not_fit_are_named() -> None:
    case = lora_case([0, 1], ranks=(8, 4), dtype=torch.float32, **SHAPE)
    with pytest.raises(KernelError, match=r"x is \[2, 10\]; expected \[2, 640\]"):
        lora_add(case.out, case.x[:, :10], case.weights, case.plan)
    with pytest.raises(KernelError, match=r"out is \[1, 960\]; expected \[2, 960\]"):
        lora_add(case.out[:1], case.x, case.weights, case.plan)
