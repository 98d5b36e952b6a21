"""Rank rows, dense or in pages, are the same rows; what cannot be is refused by name."""

from __future__ import annotations

import math

import pytest
import torch

from kernels import DenseRows, KernelError, LoraWeights, PagedRows, pack_rows
from kernels.cases import lora_case


@pytest.mark.parametrize("page", [7, 16, 64, 200])
def test_pages_hold_what_dense_rows_hold(page: int) -> None:
    shape = {"widths": (64, 24), "in_width": 40, "ranks": (3, 0, 5), "dtype": torch.float32}
    dense, paged = lora_case([0, 1, 2], **shape).weights, lora_case([0, 1, 2], page=page, **shape).weights
    for dense_rows, paged_rows in zip((dense.a, *dense.b), (paged.a, *paged.b), strict=True):
        assert dense_rows.ranks == paged_rows.ranks
        for slot in range(3):
            assert torch.equal(dense_rows.adapter(slot), paged_rows.adapter(slot))


def test_evenly_spaced_adapters_stack_without_a_copy() -> None:
    rows = DenseRows(torch.arange(48.0).view(12, 4), starts=(0, 3, 6, 9), ranks=(2, 2, 2, 2))
    stacked = rows.stack([1, 2, 3])
    assert stacked.untyped_storage().data_ptr() == rows.storage.untyped_storage().data_ptr()
    assert torch.equal(stacked, torch.stack([rows.adapter(slot) for slot in (1, 2, 3)]))


def test_unevenly_spaced_adapters_stack_all_the_same() -> None:
    rows = DenseRows(torch.arange(48.0).view(12, 4), starts=(6, 0, 9), ranks=(2, 2, 2))
    assert torch.equal(rows.stack([0, 1, 2]), torch.stack([rows.adapter(slot) for slot in (0, 1, 2)]))


def test_adapters_with_other_rows_between_are_no_run() -> None:
    storage = torch.zeros(12, 4)
    assert DenseRows(storage, starts=(0, 2, 4), ranks=(2, 2, 2)).run(range(3)) is not None
    assert DenseRows(storage, starts=(0, 3, 6), ranks=(2, 2, 2)).run(range(3)) is None


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    bad = torch.tensor([[1.0, value]])
    with pytest.raises(KernelError, match="slot 1: the weights hold infinities or NaN"):
        pack_rows([torch.ones(1, 2), bad], 2, torch.float32)


def test_a_rank_row_of_another_width_is_refused() -> None:
    with pytest.raises(KernelError, match=r"slot 0: shape \[2, 3\]; expected \[r, 4\]"):
        pack_rows([torch.ones(2, 3)], 4, torch.float32)


def test_rows_outside_the_storage_are_refused() -> None:
    with pytest.raises(KernelError, match=r"slot 1: rows 3\.\.5 lie outside"):
        DenseRows(torch.zeros(4, 2), starts=(0, 3), ranks=(2, 2))


def test_half_a_row_of_pages_and_an_unknown_page_are_refused() -> None:
    pool = torch.zeros(4, 8)
    with pytest.raises(KernelError, match="slot 0: 3 pages; expected a multiple of 2"):
        PagedRows(pool, ((0, 1, 2),), width=10)
    with pytest.raises(KernelError, match="slot 0: a page number lies outside the pool of 4 pages"):
        PagedRows(pool, ((0, 4),), width=10)


def test_slices_whose_ranks_do_not_add_up_are_refused() -> None:
    a, b = pack_rows([torch.ones(3, 4)], 4, torch.float32), pack_rows([torch.ones(2, 4)], 4, torch.float32)
    with pytest.raises(KernelError, match=r"slot 0: a has 3 rank rows, the slices of b have \[2\]"):
        LoraWeights(a, (b,), ((1.0,),))
