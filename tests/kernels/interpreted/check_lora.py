"""The Triton lora kernels under Triton's interpreter. Run by test_triton.py, which sets TRITON_INTERPRET first.

Outputs lie inside larger buffers of NaN: what a kernel must not write has to stay NaN, what it must write may not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.cases import LoraCase, lora_case, popularity
from kernels.lora.cuda import DETERMINISTIC, Launch, add_with, expand_call, shrink_call
from kernels.lora.plan import plan_batch
from kernels.lora.reference import lora_expand_reference, lora_shrink_reference

ROWS = Launch(tile=1, rank=32, inner=1024, columns=1024, splits=2)
TILES = Launch(tile=16, rank=32, inner=256, columns=256, splits=3)
WIDE_TILES = Launch(tile=64, rank=64, inner=256, columns=256, splits=1)
LAUNCHES = {"rows": ROWS, "tiles": TILES, "wide tiles": WIDE_TILES, "deterministic": DETERMINISTIC}


@dataclass(frozen=True)
class Poisoned:
    """A tensor inside a buffer of NaN that is wider by `margin` on the right."""

    buffer: Tensor
    inside: Tensor

    @classmethod
    def of(cls, *shape: int, dtype: torch.dtype, margin: int = 16) -> Poisoned:
        buffer = torch.full((*shape[:-1], shape[-1] + margin), math.nan, dtype=dtype)
        return cls(buffer, buffer[..., : shape[-1]])

    def margin_is_untouched(self) -> bool:
        return bool(self.buffer[..., self.inside.shape[-1] :].isnan().all())


def check(launch: Launch, case: LoraCase) -> None:
    """Shrink and expand against the reference, each on a poisoned output."""
    none = case.plan.token_slots < 0
    wanted_shrunk = lora_shrink_reference(case.x, case.weights, case.plan)[0]
    shrunk = Poisoned.of(launch.splits, case.plan.tokens, case.weights.a.max_rank, dtype=torch.float32)
    shrink_call(launch, shrunk.inside, case.x, case.weights, case.plan).run()
    ranks = torch.tensor([*case.weights.a.ranks, 0])[case.plan.token_slots.long()]
    own = torch.arange(case.weights.a.max_rank) < ranks[:, None]
    assert shrunk.margin_is_untouched()
    assert shrunk.inside[:, ~own].isnan().all()
    torch.testing.assert_close(shrunk.inside.sum(0)[own], wanted_shrunk[own], rtol=2e-3, atol=2e-3)

    wanted = case.out.float().clone()
    lora_expand_reference(wanted, shrunk.inside, case.weights, case.plan)
    out = Poisoned.of(*case.out.shape, dtype=case.out.dtype)
    out.inside[~none] = case.out[~none]
    expand_call(launch, out.inside, shrunk.inside, case.weights, case.plan).run()
    assert out.margin_is_untouched()
    assert out.inside[none].isnan().all()
    size = 1e-4 if case.out.dtype == torch.float32 else 2e-2
    torch.testing.assert_close(out.inside[~none].float(), wanted[~none], rtol=size, atol=size)


def kinds(tokens: int, adapters: int = 4) -> dict[str, list[int]]:
    drawn = {kind: popularity(kind, tokens, adapters) for kind in ("distinct", "uniform", "zipf", "identical")}
    return drawn | {"every third without": [-1 if row % 3 == 2 else row % adapters for row in range(tokens)]}


@pytest.mark.parametrize("kind", list(kinds(1)))
@pytest.mark.parametrize("name", LAUNCHES)
def test_popularity(name: str, kind: str) -> None:
    case = lora_case(kinds(21)[kind], widths=(192, 64), in_width=256, ranks=(16, 3, 0, 40), dtype=torch.float32)
    check(LAUNCHES[name], case)


@pytest.mark.parametrize("page", [None, 192])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("name", LAUNCHES)
def test_dense_and_paged(name: str, dtype: torch.dtype, page: int | None) -> None:
    slots = kinds(19)["every third without"]
    check(LAUNCHES[name], lora_case(slots, widths=(256,), in_width=576, ranks=(8, 33), dtype=dtype, page=page))


@pytest.mark.parametrize(
    ("name", "in_width", "widths", "page"),
    [
        ("tiles", 576, (576, 192, 192), 192),
        ("rows", 640, (1024, 256, 256), 256),
        ("wide tiles", 640, (640,), None),
        ("tiles", 1536, (576,), None),
        ("rows", 576, (1536, 1536), 576),
        ("deterministic", 2048, (640,), 640),
        ("wide tiles", 640, (2048, 2048), 256),
        ("rows", 4096, (4096, 1024, 1024), 1024),
        ("tiles", 4096, (11008, 11008), 1024),
        ("rows", 11008, (4096,), None),
        ("tiles", 11008, (4096,), 4096),
        ("tiles", 37, (29, 11), None),
        ("rows", 37, (29, 11), 10),
    ],
)
def test_model_widths(name: str, in_width: int, widths: tuple[int, ...], page: int | None) -> None:
    slots = [0, 2, 1, -1, 2]
    check(
        LAUNCHES[name],
        lora_case(slots, widths=widths, in_width=in_width, ranks=(8, 16, 5), dtype=torch.float16, page=page),
    )


@pytest.mark.parametrize("tokens", [1, 63, 1000])
@pytest.mark.parametrize("name", ["tiles", "wide tiles"])
def test_odd_lengths(name: str, tokens: int) -> None:
    slots = popularity("zipf", tokens, 5)
    check(LAUNCHES[name], lora_case(slots, widths=(64,), in_width=256, ranks=(16, 8), dtype=torch.float32))


@pytest.mark.parametrize("name", LAUNCHES)
def test_ranks_1_to_256_at_their_true_size(name: str) -> None:
    ranks = (1, 256, 8, 64, 2, 0, 100)
    check(LAUNCHES[name], lora_case(range(7), widths=(80,), in_width=128, ranks=ranks, dtype=torch.float32))


@pytest.mark.parametrize("slots", [[], [-1, -1, -1], [1, 1]])
def test_empty_groups_launch_nothing_that_writes(slots: list[int]) -> None:
    case = lora_case(slots, widths=(64,), in_width=64, ranks=(4, 0), dtype=torch.float32)
    before = case.out.clone()
    add_with(TILES, case.out, case.x, case.weights, case.plan)
    add_with(ROWS, case.out, case.x, case.weights, case.plan)
    assert torch.equal(case.out, before)


@pytest.fixture
def products_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each element of a product is summed in one order, wherever it stands, as on a GPU. The interpreter's own come
    from BLAS, which on some processors rounds a row by its place in the matrix (try OPENBLAS_CORETYPE=Haswell)."""

    def matmul(a: np.ndarray, b: np.ndarray, dtype: np.dtype) -> np.ndarray:
        return (a.astype(dtype)[:, :, None] * b.astype(dtype)[None]).sum(axis=1)

    monkeypatch.setattr(np, "matmul", matmul)


@pytest.mark.usefixtures("products_in_order")
def test_deterministic_rows_do_not_depend_on_company() -> None:
    slots = popularity("zipf", 40, 4, seed=1)
    case = lora_case(slots, widths=(96, 32), in_width=320, ranks=(16, 40, 8), dtype=torch.float32)
    start = case.out.clone()
    add_with(DETERMINISTIC, case.out, case.x, case.weights, case.plan)
    for company in ([7], [39, 7, 3], list(range(39, -1, -3))):
        out = start[company].clone()
        add_with(DETERMINISTIC, out, case.x[company], case.weights, plan_batch([slots[row] for row in company]))
        assert torch.equal(out, case.out[company]), company
    otherwise = start.clone()
    add_with(ROWS, otherwise, case.x, case.weights, case.plan)
    assert not torch.equal(otherwise, case.out), "a control: sums in another order show"


def test_control_a_kernel_that_leaves_a_row_out_is_caught() -> None:
    case = lora_case([0, 1, 2], widths=(64,), in_width=64, ranks=(8,), dtype=torch.float32)
    short = plan_batch([0, 1, -1])
    shrunk = torch.full((1, 3, 8), math.nan)
    shrink_call(Launch(tile=16), shrunk, case.x, case.weights, short).run()
    assert shrunk[0, 2].isnan().all()
    assert shrunk[0, :2].isfinite().all()
