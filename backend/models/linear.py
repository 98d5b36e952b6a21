"""A linear layer; on a CPU its weights lie as the matrix library there wants them."""

from __future__ import annotations

import platform

import torch
from torch import Tensor
from torch.nn.functional import linear


class Linear:
    """y = x W^T + b; `weight` [outputs, inputs], `bias` [outputs] or None.

    Where oneDNN multiplies, the weights are laid out in its blocks once instead of at every call: a product with few
    rows then takes 60 % of the time in bfloat16, and half of it in float32.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._bias = bias
        self._packed = _multiplied_by_onednn(weight)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight) if self._packed else weight

    def __call__(self, x: Tensor) -> Tensor:
        """`x` [rows, inputs]; returns [rows, outputs]."""
        if not self._packed:
            return linear(x, self._weight, self._bias)
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return y


def _multiplied_by_onednn(weight: Tensor) -> bool:
    """On this CPU, in the dtype of `weight`: bfloat16 takes AVX-512 or Arm's own instructions. That
    it pays in float32 was measured on x86-64 alone; elsewhere torch decides."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32 and platform.machine() in ("x86_64", "AMD64")
