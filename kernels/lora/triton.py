"""Shrink and expand in Triton: per-row gather for decoding, tiles of one adapter's tokens for prefill.

Rows are addressed through pages always: a dense row is one page as wide as itself. A block of a row never
straddles two pages, so each block needs one page number per rank row. Shrink splits the input width over programs
and writes one partial sum per split, expand adds them in order: no atomics, the same bits every time. The order of
additions within a row depends only on the block sizes and the splits, which the deterministic mode keeps constant.
Design follows Punica (MLSys'24, BGMV and SGMV) and S-LoRA (MLSys'24, MBGMV and MBGMM over unified pages).
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _page_numbers(pages, first, r, has, pages_per_row, page, PAGED: tl.constexpr):
    """Which page holds part `page` of the rank rows r of an adapter whose first entry (dense: row) is `first`."""
    if PAGED:
        return tl.load(pages + first + r * pages_per_row + page, mask=has, other=0).to(tl.int64)
    return (first + r).to(tl.int64)


@triton.jit
def _slice_of(slices, piece, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """(pointer, row stride, elements per page, width, first output column) of one slice. What the compiler knows to
    be a multiple of 16 it loads and stores as vectors."""
    entry = slices + 5 * piece
    address, stride = tl.load(entry), tl.load(entry + 1)
    elements, width = tl.load(entry + 2).to(tl.int32), tl.load(entry + 3).to(tl.int32)
    column = tl.load(entry + 4).to(tl.int32)
    pointer = address.to(tl.pointer_type(DTYPE))
    if ALIGNED:
        pointer, stride, column = tl.multiple_of(pointer, 16), tl.multiple_of(stride, 16), tl.multiple_of(column, 16)
        elements, width = tl.multiple_of(elements, 16), tl.multiple_of(width, 16)
    return pointer, stride, elements, width, column


@triton.jit
def shrink_tiles_kernel(
    x,
    out,
    slices,
    index,
    pages,
    tiles,
    order,
    x_stride,
    split_stride,
    out_stride,
    PAGED: tl.constexpr,
    ALIGNED: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (tile, rank block, split): out[split, its tokens, its rank rows] over its part of the input width."""
    tile, rank_block, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    slot, start, stop = tl.load(tiles + 3 * tile), tl.load(tiles + 3 * tile + 1), tl.load(tiles + 3 * tile + 2)
    first, rank = tl.load(index + 3 * slot), tl.load(index + 3 * slot + 1)
    if rank_block * BLOCK_R >= rank:
        return
    a, a_stride, elements, width, _ = _slice_of(slices, 0, x.dtype.element_ty, ALIGNED)
    position = start + tl.arange(0, BLOCK_T)
    live = position < stop
    rows = tl.load(order + position, mask=live, other=0)
    r = rank_block * BLOCK_R + tl.arange(0, BLOCK_R)
    has = r < rank
    pages_per_row, page_blocks = tl.cdiv(width, elements), tl.cdiv(elements, BLOCK_K)
    blocks = pages_per_row * page_blocks
    share = tl.cdiv(blocks, SPLITS)
    total = tl.zeros((BLOCK_T, BLOCK_R), dtype=tl.float32)
    for block in range(split * share, tl.minimum(blocks, (split + 1) * share)):
        page = block // page_blocks
        inside = (block % page_blocks) * BLOCK_K + tl.arange(0, BLOCK_K)
        k = page * elements + inside
        real = (inside < elements) & (k < width)
        at = _page_numbers(pages, first, r, has, pages_per_row, page, PAGED)
        x_tile = tl.load(x + rows[:, None] * x_stride + k[None, :], mask=live[:, None] & real[None, :], other=0.0)
        a_tile = tl.load(a + at[:, None] * a_stride + inside[None, :], mask=has[:, None] & real[None, :], other=0.0)
        total = tl.dot(x_tile, tl.trans(a_tile), total, input_precision=PRECISION)
    target = out + split * split_stride + rows[:, None] * out_stride + r[None, :]
    tl.store(target, total, mask=live[:, None] & has[None, :])


@triton.jit
def shrink_rows_kernel(
    x,
    out,
    slices,
    index,
    pages,
    token_slots,
    order,
    x_stride,
    split_stride,
    out_stride,
    PAGED: tl.constexpr,
    ALIGNED: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Program (token, rank block, split): as shrink_tiles_kernel, for one token, without tensor cores."""
    row, rank_block, split = tl.load(order + tl.program_id(0)), tl.program_id(1), tl.program_id(2)
    slot = tl.load(token_slots + row)
    first, rank = tl.load(index + 3 * slot), tl.load(index + 3 * slot + 1)
    if rank_block * BLOCK_R >= rank:
        return
    a, a_stride, elements, width, _ = _slice_of(slices, 0, x.dtype.element_ty, ALIGNED)
    r = rank_block * BLOCK_R + tl.arange(0, BLOCK_R)
    has = r < rank
    pages_per_row, page_blocks = tl.cdiv(width, elements), tl.cdiv(elements, BLOCK_K)
    blocks = pages_per_row * page_blocks
    share = tl.cdiv(blocks, SPLITS)
    total = tl.zeros((BLOCK_R,), dtype=tl.float32)
    for block in range(split * share, tl.minimum(blocks, (split + 1) * share)):
        page = block // page_blocks
        inside = (block % page_blocks) * BLOCK_K + tl.arange(0, BLOCK_K)
        k = page * elements + inside
        real = (inside < elements) & (k < width)
        at = _page_numbers(pages, first, r, has, pages_per_row, page, PAGED)
        x_part = tl.load(x + row * x_stride + k, mask=real, other=0.0).to(tl.float32)
        a_tile = tl.load(a + at[:, None] * a_stride + inside[None, :], mask=has[:, None] & real[None, :], other=0.0)
        total += tl.sum(a_tile.to(tl.float32) * x_part[None, :], axis=1)
    tl.store(out + split * split_stride + row * out_stride + r, total, mask=has)


@triton.jit
def expand_tiles_kernel(
    out,
    shrunk,
    slices,
    index,
    pages,
    scales,
    tiles,
    order,
    slots,
    out_stride,
    split_stride,
    shrunk_stride,
    PAGED: tl.constexpr,
    ALIGNED: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (tile, output block, slice): adds scale * shrunk B to its tokens' columns of its slice."""
    tile, block, piece = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    slot, start, stop = tl.load(tiles + 3 * tile), tl.load(tiles + 3 * tile + 1), tl.load(tiles + 3 * tile + 2)
    entry = index + 3 * (piece * slots + slot)
    first, rank, shrunk_column = tl.load(entry), tl.load(entry + 1), tl.load(entry + 2)
    if rank == 0:
        return
    b, b_stride, elements, width, out_column = _slice_of(slices, piece, out.dtype.element_ty, ALIGNED)
    page_blocks = tl.cdiv(elements, BLOCK_N)
    page = block // page_blocks
    if page * elements + (block % page_blocks) * BLOCK_N >= width:
        return
    inside = (block % page_blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    n = page * elements + inside
    real = (inside < elements) & (n < width)
    pages_per_row = tl.cdiv(width, elements)
    position = start + tl.arange(0, BLOCK_T)
    live = position < stop
    rows = tl.load(order + position, mask=live, other=0)
    total = tl.zeros((BLOCK_T, BLOCK_N), dtype=tl.float32)
    for r_first in range(0, rank, BLOCK_R):
        r = r_first + tl.arange(0, BLOCK_R)
        has = r < rank
        source = shrunk + rows[:, None] * shrunk_stride + (shrunk_column + r)[None, :]
        v = tl.zeros((BLOCK_T, BLOCK_R), dtype=tl.float32)
        for split in tl.static_range(SPLITS):
            v += tl.load(source + split * split_stride, mask=live[:, None] & has[None, :], other=0.0)
        at = _page_numbers(pages, first, r, has, pages_per_row, page, PAGED)
        b_tile = tl.load(b + at[:, None] * b_stride + inside[None, :], mask=has[:, None] & real[None, :], other=0.0)
        total = tl.dot(v.to(b_tile.dtype), b_tile, total, input_precision=PRECISION)
    target = out + rows[:, None] * out_stride + (out_column + n)[None, :]
    mask = live[:, None] & real[None, :]
    added = tl.load(target, mask=mask, other=0.0).to(tl.float32) + tl.load(scales + piece * slots + slot) * total
    tl.store(target, added.to(out.dtype.element_ty), mask=mask)


@triton.jit
def expand_rows_kernel(
    out,
    shrunk,
    slices,
    index,
    pages,
    scales,
    token_slots,
    order,
    slots,
    out_stride,
    split_stride,
    shrunk_stride,
    PAGED: tl.constexpr,
    ALIGNED: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Program (token, output block, slice): as expand_tiles_kernel, for one token, without tensor cores."""
    row, block, piece = tl.load(order + tl.program_id(0)), tl.program_id(1), tl.program_id(2)
    slot = tl.load(token_slots + row)
    entry = index + 3 * (piece * slots + slot)
    first, rank, shrunk_column = tl.load(entry), tl.load(entry + 1), tl.load(entry + 2)
    if rank == 0:
        return
    b, b_stride, elements, width, out_column = _slice_of(slices, piece, out.dtype.element_ty, ALIGNED)
    page_blocks = tl.cdiv(elements, BLOCK_N)
    page = block // page_blocks
    if page * elements + (block % page_blocks) * BLOCK_N >= width:
        return
    inside = (block % page_blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    n = page * elements + inside
    real = (inside < elements) & (n < width)
    pages_per_row = tl.cdiv(width, elements)
    total = tl.zeros((BLOCK_N,), dtype=tl.float32)
    for r_first in range(0, rank, BLOCK_R):
        r = r_first + tl.arange(0, BLOCK_R)
        has = r < rank
        source = shrunk + row * shrunk_stride + shrunk_column + r
        v = tl.zeros((BLOCK_R,), dtype=tl.float32)
        for split in tl.static_range(SPLITS):
            v += tl.load(source + split * split_stride, mask=has, other=0.0)
        at = _page_numbers(pages, first, r, has, pages_per_row, page, PAGED)
        b_tile = tl.load(b + at[:, None] * b_stride + inside[None, :], mask=has[:, None] & real[None, :], other=0.0)
        total += tl.sum(b_tile.to(tl.float32) * v[:, None], axis=0)
    target = out + row * out_stride + out_column + n
    added = tl.load(target, mask=real, other=0.0).to(tl.float32) + tl.load(scales + piece * slots + slot) * total
    tl.store(target, added.to(out.dtype.element_ty), mask=real)
