"""Paged attention in Triton: one kernel for decode, prefill and chunks, and one that joins splits of the context.

A program takes a tile of one sequence's new tokens, all query heads of one kv head (they share its keys and values),
and a stretch of the context, with the online softmax (Milakov and Gimelshein, 2018; FlashAttention-2, 2023). Where
tiles alone do not fill the device the context is split (Flash-Decoding, 2023). Stretches are cut at fixed positions
and joined in order, so with fixed block sizes a token's result depends on its own sequence up to itself alone.
"""

from __future__ import annotations

import triton
import triton.language as tl

FAR_BELOW = tl.constexpr(-1e30)  # stands for minus infinity, without inf - inf


@triton.jit
def attention_kernel(
    q,
    keys,
    values,
    out,
    partial,
    stats,
    page_table,
    tiles,
    q_token,
    q_head,
    k_page,
    k_token,
    k_head,
    v_page,
    v_token,
    v_head,
    out_token,
    out_head,
    table_stride,
    tokens,
    heads,
    page_tokens,
    scale,
    window,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STRETCH: tl.constexpr,
    SPLIT: tl.constexpr,
    WINDOWED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (tile, kv head, stretch of STRETCH keys). Row i of the tile is query head i % GROUP of its token
    i // GROUP. scale includes log2(e). SPLIT: writes [stretches, tokens, heads] partial sums and (maximum, weight)
    for join_kernel instead of the result."""
    entry = tiles + 4 * tl.program_id(0)
    kv_head, stretch = tl.program_id(1), tl.program_id(2)
    sequence, first_row = tl.load(entry), tl.load(entry + 1)
    position, count = tl.load(entry + 2), tl.load(entry + 3)
    i = tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    live = (i < BLOCK_Q * GROUP) & (i // GROUP < count)
    row, head = first_row + i // GROUP, kv_head * GROUP + i % GROUP
    at = position + i // GROUP
    wide = d < DIM
    q_tile = tl.load(
        q + row[:, None] * q_token + head[:, None] * q_head + d[None, :], live[:, None] & wide[None, :], 0.0
    )
    best = tl.full((BLOCK_M,), FAR_BELOW, dtype=tl.float32)
    weight = tl.zeros((BLOCK_M,), dtype=tl.float32)
    total = tl.zeros((BLOCK_M, BLOCK_D), dtype=tl.float32)
    last = position + count
    begin, end = stretch * STRETCH, last
    if SPLIT:
        end = tl.minimum(last, begin + STRETCH)
    if WINDOWED:
        begin = tl.maximum(begin, tl.maximum(0, position - window + 1) // BLOCK_K * BLOCK_K)
    for block in range(begin, end, BLOCK_K):
        key = block + tl.arange(0, BLOCK_K)
        known = key < last
        page = tl.load(page_table + sequence * table_stride + key // page_tokens, mask=known, other=0).to(tl.int64)
        offset = key % page_tokens
        load = known[:, None] & wide[None, :]
        k_at = keys + kv_head * k_head + page[:, None] * k_page + offset[:, None] * k_token + d[None, :]
        k_tile = tl.load(k_at, mask=load, other=0.0)
        scores = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION) * scale
        seen = live[:, None] & (key[None, :] <= at[:, None])
        if WINDOWED:
            seen = seen & (key[None, :] > at[:, None] - window)
        scores = tl.where(seen, scores, FAR_BELOW)
        higher = tl.maximum(best, tl.max(scores, axis=1))
        fade = tl.exp2(best - higher)
        grown = tl.where(seen, tl.exp2(scores - higher[:, None]), 0.0)
        weight = weight * fade + tl.sum(grown, axis=1)
        v_at = values + kv_head * v_head + page[:, None] * v_page + offset[:, None] * v_token + d[None, :]
        v_tile = tl.load(v_at, mask=load, other=0.0)
        total = tl.dot(grown.to(v_tile.dtype), v_tile, total * fade[:, None], input_precision=PRECISION)
        best = higher
    store = live[:, None] & wide[None, :]
    if SPLIT:
        place = (stretch.to(tl.int64) * tokens + row) * heads + head
        tl.store(partial + place[:, None] * DIM + d[None, :], total, mask=store)
        tl.store(stats + 2 * place, best, mask=live)
        tl.store(stats + 2 * place + 1, weight, mask=live)
    else:
        result = total / tl.where(live, weight, 1.0)[:, None]
        target = out + row[:, None] * out_token + head[:, None] * out_head + d[None, :]
        tl.store(target, result.to(out.dtype.element_ty), mask=store)


@triton.jit
def join_kernel(
    partial,
    stats,
    out,
    out_token,
    out_head,
    tokens,
    heads,
    stretches,
    DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Program (token, head): joins the stretches in order; one that holds nothing visible adds exactly nothing."""
    row, head = tl.program_id(0), tl.program_id(1)
    d = tl.arange(0, BLOCK_D)
    wide = d < DIM
    best, weight = tl.full((1,), FAR_BELOW, dtype=tl.float32), tl.zeros((1,), dtype=tl.float32)
    total = tl.zeros((BLOCK_D,), dtype=tl.float32)
    for stretch in range(stretches):
        place = (stretch * tokens + row).to(tl.int64) * heads + head
        stretch_best, stretch_weight = tl.load(stats + 2 * place), tl.load(stats + 2 * place + 1)
        higher = tl.maximum(best, stretch_best)
        fade, grow = tl.exp2(best - higher), tl.exp2(stretch_best - higher)
        grow = tl.where(stretch_weight > 0, grow, 0.0)
        total = total * fade + grow * tl.load(partial + place * DIM + d, mask=wide, other=0.0)
        weight = weight * fade + grow * stretch_weight
        best = higher
    target = out + row * out_token + head * out_head + d
    tl.store(target, (total / weight).to(out.dtype.element_ty), mask=wide)
