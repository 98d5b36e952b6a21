"""What the lora ops are measured against: each peer adds the same LoRA to the same output, in its own way.

vLLM's and SGLang's kernels are used when their packages can be imported, at the paddings they ask for (every
adapter at the largest rank); where a version differs from what is called here, the row says so instead of a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor

from kernels.cases import LoraCase
from kernels.choice import Run
from kernels.lora.ops import lora_add
from kernels.lora.plan import BatchPlan
from kernels.lora.rows import RankRows
from kernels.lora.weights import LoraWeights


@dataclass(frozen=True)
class PeerCase:
    """One shape, with what the peers need beside our own form of it.

    a       [slots, slices * rank, input], b per slice [slots, output, rank]: padded to the largest rank with zeros
    counts  per slot in the batch its number of tokens; the batch is sorted by slot, as every peer prefers
    """

    case: LoraCase
    a: Tensor
    b: tuple[Tensor, ...]
    counts: tuple[tuple[int, int], ...]

    @property
    def rank(self) -> int:
        return self.b[0].shape[2]


def peer_case(case: LoraCase) -> PeerCase:
    weights, slices = case.weights, len(case.weights.b)
    slots, rank = len(weights.a.ranks), max(b.max_rank for b in weights.b)
    a = case.x.new_zeros((slots, slices, rank, weights.in_width))
    for slot in range(slots):
        parts = weights.a.adapter(slot).split(list(weights.slice_ranks[slot]))
        for piece, part in enumerate(parts):
            a[slot, piece, : len(part)] = part
    b = tuple(_padded_b(rows, slots, rank, case.x) for rows in weights.b)
    counts = tuple((segment.slot, segment.stop - segment.start) for segment in case.plan.segments)
    return PeerCase(case, a.flatten(1, 2).contiguous(), b, counts)


def _padded_b(rows: RankRows, slots: int, rank: int, like: Tensor) -> Tensor:
    padded = like.new_zeros((slots, rows.width, rank))
    for slot in range(slots):
        padded[slot, :, : rows.ranks[slot]] = rows.adapter(slot).T
    return padded


def ours(peer: PeerCase) -> Run:
    case = peer.case
    return lambda: lora_add(case.out, case.x, case.weights, case.plan)


def ours_deterministic(peer: PeerCase) -> Run:
    case = peer.case
    plan = BatchPlan(case.plan.tokens, case.plan.segments, True, case.plan.order, case.plan.token_slots)
    return lambda: lora_add(case.out, case.x, case.weights, plan)


def adapter_loop(peer: PeerCase) -> Run:
    """Two cuBLAS products per adapter and slice."""
    case = peer.case

    def run() -> None:
        for segment in case.plan.segments:
            _add_segment(
                case.out[segment.start : segment.stop], case.x[segment.start : segment.stop], case.weights, segment.slot
            )

    return run


def _add_segment(out: Tensor, x: Tensor, weights: LoraWeights, slot: int) -> None:
    v = x @ weights.a.adapter(slot).T
    column, rank_row = 0, 0
    for b, scales in zip(weights.b, weights.scales, strict=True):
        rank = b.ranks[slot]
        region = out[:, column : column + b.width]
        torch.addmm(region, v[:, rank_row : rank_row + rank], b.adapter(slot), alpha=scales[slot], out=region)
        column, rank_row = column + b.width, rank_row + rank


def all_slots(peer: PeerCase) -> Run:
    """One cuBLAS product with every slot's rank rows, masked, and one back: what a library call can do at best."""
    case, slices = peer.case, len(peer.b)
    slots, rank = peer.a.shape[0], peer.rank
    a = peer.a.view(slots, slices, rank, -1)
    wide_a = [a[:, piece].flatten(0, 1) for piece in range(slices)]
    wide_b = [b.transpose(1, 2).flatten(0, 1) for b in peer.b]
    own = (case.plan.token_slots[:, None] == torch.arange(slots, device=case.x.device)).repeat_interleave(rank, 1)
    factors = [own * torch.tensor(row, device=case.x.device).repeat_interleave(rank) for row in case.weights.scales]
    factors = [factor.to(case.x.dtype) for factor in factors]

    def run() -> None:
        column = 0
        for piece, b in enumerate(wide_b):
            region = case.out[:, column : column + b.shape[1]]
            torch.addmm(region, case.x @ wide_a[piece].T * factors[piece], b, out=region)
            column += b.shape[1]

    return run


def merged(peer: PeerCase) -> Run:
    """Nothing is added: the adapter is part of the base weights. The floor, and possible for one adapter only."""
    return lambda: None


def vllm(peer: PeerCase) -> Run:
    from vllm.lora.ops.triton_ops.lora_expand_op import _lora_expand
    from vllm.lora.ops.triton_ops.lora_shrink_op import _lora_shrink

    case, slices, rank = peer.case, len(peer.b), peer.rank
    a = [part.contiguous() for part in peer.a.view(peer.a.shape[0], slices, rank, -1).unbind(1)]
    slots, counts = [slot for slot, _ in peer.counts], [count for _, count in peer.counts]
    device = case.x.device
    starts = torch.tensor([0, *torch.tensor(counts).cumsum(0).tolist()], dtype=torch.int32, device=device)
    meta = (
        case.plan.token_slots,
        case.plan.order.int(),
        torch.tensor(counts, dtype=torch.int32, device=device),
        starts,
        torch.tensor(slots, dtype=torch.int32, device=device),
        torch.tensor([False]),
        torch.tensor([len(slots)]),
    )
    shrunk = torch.empty((slices, case.plan.tokens, rank), dtype=torch.float32, device=device)
    b = list(peer.b)

    def run() -> None:
        _lora_shrink(case.x, a, shrunk, *meta, 1.0)
        _lora_expand(shrunk, b, case.out, *meta, offset_start=0, add_inputs=True)

    return run


def sglang(peer: PeerCase) -> Run:
    from sglang.srt.lora.triton_ops import (
        gate_up_lora_b_fwd,
        qkv_lora_b_fwd,
        sgemm_lora_a_fwd,
        sgemm_lora_b_fwd,
    )

    case, slices = peer.case, len(peer.b)
    info = _sglang_batch(peer)
    stacked = torch.cat(peer.b, dim=1).contiguous()
    widths = [b.shape[1] for b in peer.b]
    offsets = torch.tensor([sum(widths[:i]) for i in range(slices + 1)], dtype=torch.int32, device=case.x.device)

    def run() -> None:
        shrunk = sgemm_lora_a_fwd(case.x, peer.a, info, stack_num=slices)
        if slices == 3:
            qkv_lora_b_fwd(shrunk, stacked, info, offsets, max(widths), case.out)
        elif slices == 2:
            gate_up_lora_b_fwd(shrunk, stacked, info, widths[0], case.out)
        else:
            sgemm_lora_b_fwd(shrunk, stacked, info, case.out)

    return run


def _sglang_batch(peer: PeerCase) -> SimpleNamespace:
    device = peer.case.x.device
    counts = torch.tensor([count for _, count in peer.counts], dtype=torch.int32)
    slots = len(peer.a)
    return SimpleNamespace(
        use_cuda_graph=True,
        bs=len(peer.counts),
        num_segments=len(peer.counts),
        seg_lens=counts.to(device),
        seg_indptr=torch.cat([torch.zeros(1, dtype=torch.int32), counts.cumsum(0).int()]).to(device),
        max_len=int(counts.max()),
        weight_indices=torch.tensor([slot for slot, _ in peer.counts], dtype=torch.int32, device=device),
        lora_ranks=torch.full((slots,), peer.rank, dtype=torch.int32, device=device),
        scalings=torch.tensor(peer.case.weights.scales[0], device=device),
        permutation=None,
    )


OURS = {"fairgate": ours, "fairgate deterministic": ours_deterministic}
PEERS = {"adapter loop": adapter_loop, "all slots": all_slots, "vllm": vllm, "sglang": sglang}
FLOOR = {"merged": merged}
