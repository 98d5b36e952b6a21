"""Which kernels an op runs: Triton's, or the CPU's."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from kernels.errors import require

# Triton's own switch, read once as Triton does: a kernel is interpreted, or not, from its definition on.
INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")


def runs_triton(tensor: Tensor) -> bool:
    """On a CUDA device; and on any device while Triton interprets its kernels (TRITON_INTERPRET=1), so that a program
    can be run through them where there is no GPU. Triton is imported only then. Raises KernelError for bfloat16 there:
    Triton's interpreter computes it wrongly, without a word."""
    if INTERPRETED and not tensor.is_cuda:
        require(
            tensor.dtype != torch.bfloat16, "TRITON_INTERPRET is set and the tensors are bfloat16; expected float32"
        )
    return tensor.is_cuda or INTERPRETED
