"""Paged attention over the pages of the unified pool, and the write of new keys and values into them.

`kernels.dispatch` says whether Triton's kernels run attention or the CPU's.
"""

from __future__ import annotations

from torch import Tensor

from kernels.attention.cpu import paged_attention_cpu
from kernels.attention.plan import AttentionPlan
from kernels.dispatch import runs_triton
from kernels.errors import require


def paged_attention(
    q: Tensor, keys: Tensor, values: Tensor, plan: AttentionPlan, *, scale: float, window: int | None = None
) -> Tensor:
    """Causal attention of the step's new tokens to their sequences' pages: decode, prefill and chunks of it alike.

    q             [tokens, heads, head dim], sequence after sequence as in the plan
    keys, values  [pages, page_tokens, kv heads, head dim]; any strides with a contiguous head dim, so each may be a
                  view of one pool; the new tokens' own keys and values are already written (`write_pages`)
    scale         factor on q k
    window        a token sees this many keys, its own included; None: all
    Returns [tokens, heads, head dim]. Raises KernelError where shapes do not fit together.
    """
    heads, kv_heads = q.shape[1], keys.shape[2]
    require(q.shape[0] == plan.tokens, f"q has {q.shape[0]} rows; expected {plan.tokens} as planned")
    require(heads % kv_heads == 0, f"{heads} query heads; expected a multiple of the {kv_heads} kv heads")
    require(keys.shape == values.shape, f"keys are {list(keys.shape)}, values {list(values.shape)}")
    require(
        keys.shape[1] == plan.page_tokens, f"pages of {keys.shape[1]} tokens; expected {plan.page_tokens} as planned"
    )
    if runs_triton(q):
        from kernels.attention.cuda import paged_attention_cuda

        return paged_attention_cuda(q, keys, values, plan, scale=scale, window=window)
    return paged_attention_cpu(q, keys, values, plan, scale=scale, window=window)


def write_pages(keys: Tensor, values: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan) -> None:
    """Stores the new tokens' k and v [tokens, kv heads, head dim] in their pages, in place."""
    page, offset = plan.new_slots // plan.page_tokens, plan.new_slots % plan.page_tokens
    keys[page, offset] = k
    values[page, offset] = v
