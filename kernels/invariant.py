"""Products whose rows do not depend on each other: the deterministic mode on any device.

A matrix library picks another loop, and so another order of additions, for another number of rows; then a
request's logits change with who shares its batch ("Defeating Nondeterminism in LLM Inference", Thinking Machines,
2025). Here every product has the same number of rows, TILE_TOKENS, padded with zeros: one loop, one order.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from kernels.plan import TILE_TOKENS


def invariant_matmul(x: Tensor, w: Tensor) -> Tensor:
    """x [rows, in] times w [in, out]; each row's result is the same, bit for bit, whatever the other rows are."""
    rows = x.shape[0]
    out = torch.empty((rows, w.shape[1]), dtype=x.dtype, device=x.device)
    for start in range(0, rows, TILE_TOKENS):
        tile = x[start : start + TILE_TOKENS]
        short = TILE_TOKENS - tile.shape[0]
        out[start : start + TILE_TOKENS] = (pad(tile, (0, 0, 0, short)) @ w)[: tile.shape[0]]
    return out
