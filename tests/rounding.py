"""Rounding that is the same on every processor, for controls of what must not depend on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = {
    "aten::linear",
    "aten::matmul",
    "aten::mm",
    "aten::bmm",
    "aten::addmm",
    "aten::addmm_",
    "aten::baddbmm",
    "aten::baddbmm_",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_attention_math",
    "aten::scaled_dot_product_attention",
    "mkldnn::_linear_pointwise",
}


class RowsShow(TorchDispatchMode):
    """Inside it a product differs by about one rounding for each row it has.

    A matrix library adds in another order for another number of rows, but not on every processor and not for every
    shape: what a control saw of the library itself would be luck.
    """

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if func._schema.name in PRODUCTS:
            out: Tensor = found[0] if isinstance(found, tuple) else found
            out.mul_(1 + out.shape[-2] * torch.finfo(out.dtype).eps)
        return found
