"""Rotary position embeddings (RoFormer, arXiv:2104.09864, section 3.2), in the half-split layout of Hugging Face."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backend.models.spec import RopeSpec


class Rope:
    """Cosines and sines of `positions` positions, each [positions, 1, head_dim / 2]."""

    def __init__(self, spec: RopeSpec, head_dim: int, positions: int, dtype: torch.dtype, device: torch.device) -> None:
        steps = torch.arange(positions, dtype=torch.float32, device=device)
        angles = steps[:, None] * _frequencies(spec, head_dim, device)
        self._cos, self._sin = (table[:, None].to(dtype) for table in (angles.cos(), angles.sin()))

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The tables' rows at `positions` [rows], for `rotate`."""
        return self._cos[positions], self._sin[positions]


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`heads` [rows, heads, head_dim], each pair (i, i + head_dim / 2) turned by its position's angle."""
    left, right = heads.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)


def _frequencies(spec: RopeSpec, head_dim: int, device: torch.device) -> Tensor:
    """Radians per position of every pair, [head_dim / 2]."""
    plain = 1.0 / spec.theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)
    if spec.kind == "linear":
        return plain / spec.factor
    return _llama3(spec, plain) if spec.kind == "llama3" else plain


def _llama3(spec: RopeSpec, plain: Tensor) -> Tensor:
    """Llama 3.1: long waves slowed by `factor`, short ones kept, a linear blend between the two cut-offs."""
    waves = spec.original_positions * plain / (2 * math.pi)  # how often a wave turns within the original context
    blend = (waves - spec.low_freq_factor) / (spec.high_freq_factor - spec.low_freq_factor)
    blend = blend.clamp(0, 1)
    return blend * plain + (1 - blend) * plain / spec.factor
