"""Which kernels an op runs: Triton's, or the CPU's."""

from __future__ import annotations

import os

from torch import Tensor

# Triton's own switch, read once as Triton does: a kernel is interpreted, or not, from its definition on.
INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")


def runs_triton(tensor: Tensor) -> bool:
    """On a CUDA device; and on any device while Triton interprets its kernels (TRITON_INTERPRET=1), so that a program
    can be run through them where there is no GPU. Triton is imported only then."""
    return tensor.is_cuda or INTERPRETED
