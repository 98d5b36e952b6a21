"""The tensors behind the KV pages. Who holds which page is the owner's business."""

from __future__ import annotations

import torch

from backend.models.spec import ModelSpec


class KvCache:
    """Keys and values of every layer, each [pages, page_tokens, kv_heads, head_dim]: a page holds `page_tokens` tokens
    of one request."""

    def __init__(self, spec: ModelSpec, pages: int, page_tokens: int, dtype: torch.dtype, device: torch.device) -> None:
        shape = (pages, page_tokens, spec.kv_heads, spec.head_dim)
        self.page_tokens = page_tokens
        self.device = device
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in spec.layers]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in spec.layers]
