"""Paged attention on a CPU: pages are gathered, then torch's fused attention runs on as many sequences as go together.

Decoding sequences whose contexts differ by less than a factor of two share one padded call; a prefill chunk has a
call of its own. The query heads of a kv head become query rows, which for one new token is several times faster
than asking for grouped-query attention. The deterministic mode walks key blocks of fixed size with the online
softmax (Milakov and Gimelshein, 2018): a block that a row may not see changes nothing of it, so neither the chunk
nor the batch a token came in shows in its result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from kernels.attention.plan import AttentionPlan
from kernels.attention.reference import visible
from kernels.plan import TILE_TOKENS

KEY_BLOCK = 64
FAR_BELOW = -1e30  # stands for minus infinity, without inf - inf


def paged_attention_cpu(
    q: Tensor, keys: Tensor, values: Tensor, plan: AttentionPlan, *, scale: float, window: int | None = None
) -> Tensor:
    """See `kernels.paged_attention`."""
    out = torch.empty_like(q)
    if plan.deterministic:
        for i in range(len(plan.query_lengths)):
            _attend_blocks(out, q, keys, values, plan, i, scale, window)
        return out
    for group in _groups(plan):
        _attend_group(out, q, keys, values, plan, group, scale, window)
    return out


def _groups(plan: AttentionPlan) -> list[list[int]]:
    return plan.derive("groups", lambda: _make_groups(plan))


def _make_groups(plan: AttentionPlan) -> list[list[int]]:
    """Decoding sequences by binary order of their context; every other sequence alone."""
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, (new, context) in enumerate(zip(plan.query_lengths, plan.context_lengths, strict=True)):
        alike[(0, context.bit_length()) if new == 1 else (1, i)].append(i)
    return list(alike.values())


def _attend_group(
    out: Tensor,
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    plan: AttentionPlan,
    group: list[int],
    scale: float,
    window: int | None,
) -> None:
    heads, dim = q.shape[1:]
    kv_heads = keys.shape[2]
    rows, pages, stale, mask = plan.derive(("group", group[0], window), lambda: _group_layout(plan, group, window))
    new = len(rows) // len(group)
    folded = q.index_select(0, rows).view(len(group), new, kv_heads, heads // kv_heads, dim).permute(0, 2, 3, 1, 4)
    k, v = (_gather(cache, pages, stale, len(group))[:, :, : mask.shape[-1]] for cache in (keys, values))
    mask = mask[:, None].expand(-1, heads // kv_heads, -1, -1).flatten(1, 2)[:, None]
    attended = scaled_dot_product_attention(folded.flatten(2, 3), k, v, attn_mask=mask, scale=scale)
    unfolded = attended.view(len(group), kv_heads, heads // kv_heads, new, dim).permute(0, 3, 1, 2, 4)
    out.index_copy_(0, rows, unfolded.reshape(len(rows), heads, dim))


def _group_layout(plan: AttentionPlan, group: list[int], window: int | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Batch rows [sequences * new], pages [sequences * pages], gathered tokens that lie past their sequence's
    context (int64), and what may be seen [sequences, new, longest]."""
    longest = max(plan.context_lengths[i] for i in group)
    starts, lengths, contexts = plan.first_rows, plan.query_lengths, plan.context_lengths
    rows = torch.cat([torch.arange(starts[i], starts[i] + lengths[i]) for i in group])
    pages = plan.page_table[group, : -(-longest // plan.page_tokens)]
    room = pages.shape[1] * plan.page_tokens
    stale = torch.cat([torch.arange(at * room + contexts[i], (at + 1) * room) for at, i in enumerate(group)])
    masks = [visible(lengths[i], contexts[i], window, torch.device("cpu")) for i in group]
    return rows, pages.flatten(), stale, torch.stack([pad(mask, (0, longest - mask.shape[1])) for mask in masks])


def _gather(cache: Tensor, pages: Tensor, stale: Tensor, sequences: int) -> Tensor:
    """[sequences, kv heads, tokens, dim]. What a freed page held may be NaN, and 0 * NaN is not 0: stale tokens
    are zeroed, not just masked."""
    gathered = cache.index_select(0, pages).flatten(0, 1).index_fill_(0, stale, 0)
    return gathered.view(sequences, -1, *cache.shape[2:]).transpose(1, 2)


# --- key blocks of fixed shape ---------------------------------------------------------------------------------


def _attend_blocks(
    out: Tensor,
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    plan: AttentionPlan,
    i: int,
    scale: float,
    window: int | None,
) -> None:
    """Sequence i. One tile of TILE_TOKENS queries against one block of KEY_BLOCK keys has the same shape always."""
    first, new, context = plan.first_rows[i], plan.query_lengths[i], plan.context_lengths[i]
    pages = plan.page_table[i, : -(-context // plan.page_tokens)]
    k, v = (_blocks(cache, pages, context) for cache in (keys, values))
    for start in range(0, new, TILE_TOKENS):
        stop = min(start + TILE_TOKENS, new)
        tile = _fold(q[first + start : first + stop], keys.shape[2])
        last = context - new + stop
        seen = _tile_masks(context - new + start, last, window)
        out[first + start : first + stop] = _unfold(_online_softmax(tile * scale, k, v, seen), q.shape[1], stop - start)


def _blocks(cache: Tensor, pages: Tensor, context: int) -> Tensor:
    """float32 [blocks, kv heads, KEY_BLOCK, dim]; zeros after the context."""
    tokens = cache.index_select(0, pages).flatten(0, 1)[:context].float()
    padded = pad(tokens, (0, 0, 0, 0, 0, -context % KEY_BLOCK))
    return padded.view(-1, KEY_BLOCK, *cache.shape[2:]).transpose(1, 2).contiguous()


def _fold(q: Tensor, kv_heads: int) -> Tensor:
    """[tokens, heads, dim] to float32 [kv heads, TILE_TOKENS * group, dim], zeros below the last token."""
    tokens, heads, dim = q.shape
    padded = pad(q.float(), (0, 0, 0, 0, 0, TILE_TOKENS - tokens))
    return padded.view(TILE_TOKENS, kv_heads, heads // kv_heads, dim).transpose(0, 1).flatten(1, 2)


def _unfold(folded: Tensor, heads: int, tokens: int) -> Tensor:
    kv_heads, _, dim = folded.shape
    return folded.view(kv_heads, TILE_TOKENS, heads // kv_heads, dim).transpose(0, 1).flatten(1, 2)[:tokens]


def _tile_masks(first: int, last: int, window: int | None) -> Iterator[tuple[int, Tensor]]:
    """(block, hidden [TILE_TOKENS, KEY_BLOCK]) for the blocks that queries at positions first..last - 1 see."""
    lowest = 0 if window is None else max(0, first - window + 1)
    query = torch.arange(first, first + TILE_TOKENS)[:, None]
    for block in range(lowest // KEY_BLOCK, -(-last // KEY_BLOCK)):
        key = torch.arange(block * KEY_BLOCK, (block + 1) * KEY_BLOCK)[None, :]
        hidden = key > query if window is None else (key > query) | (key <= query - window)
        yield block, hidden


def _online_softmax(q: Tensor, k: Tensor, v: Tensor, masks: Iterator[tuple[int, Tensor]]) -> Tensor:
    """softmax(q k^T) v over the blocks, in their order; all float32."""
    kv_heads, rows, dim = q.shape
    best = q.new_full((kv_heads, rows, 1), FAR_BELOW)
    weight, total = q.new_zeros((kv_heads, rows, 1)), q.new_zeros((kv_heads, rows, dim))
    for block, hidden in masks:
        unseen = hidden.repeat_interleave(rows // TILE_TOKENS, 0)
        scores = (q @ k[block].transpose(1, 2)).masked_fill_(unseen, FAR_BELOW)
        higher = torch.maximum(best, scores.amax(-1, keepdim=True))
        shrink, grown = (best - higher).exp_(), (scores - higher).exp_().masked_fill_(unseen, 0.0)
        weight = weight * shrink + grown.sum(-1, keepdim=True)
        total = total * shrink + grown @ v[block]
        best = higher
    return total / weight
