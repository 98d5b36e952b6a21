"""Paged attention in plain torch, float32 inside: the meaning of the op, one sequence at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.attention.plan import AttentionPlan


def paged_attention_reference(
    q: Tensor, keys: Tensor, values: Tensor, plan: AttentionPlan, *, scale: float, window: int | None = None
) -> Tensor:
    """See `kernels.paged_attention`."""
    out = torch.empty_like(q)
    first = 0
    for i, (new, context) in enumerate(zip(plan.query_lengths, plan.context_lengths, strict=True)):
        pages = plan.page_table[i].long()
        k = keys[pages].flatten(0, 1)[:context].float()
        v = values[pages].flatten(0, 1)[:context].float()
        out[first : first + new] = _attend(q[first : first + new].float(), k, v, scale, window).to(q.dtype)
        first += new
    return out


def visible(new: int, context: int, window: int | None, device: torch.device) -> Tensor:
    """bool [new, context]: causal, and no further back than `window` keys (the token's own included)."""
    query = torch.arange(context - new, context, device=device)[:, None]
    key = torch.arange(context, device=device)[None, :]
    mask = key <= query
    return mask if window is None else mask & (key > query - window)


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
    """q [new, heads, d], k and v [context, kv heads, d]; query head h reads kv head h // (heads / kv heads)."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    scores = scores.masked_fill(~visible(q.shape[0], k.shape[0], window, q.device), float("-inf"))
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)
