"""Functions on tensors for a multi-LoRA worker: shrink, expand and paged attention, planned once per step.

    plan = plan_batch([0, 0, -1, 3])                     # token -> adapter slot, shared by all layers of the step
    y = x @ base.T
    lora_add(y, x, weights, plan)                        # y += scale * (x A) B, each row with its own adapter

    attention = plan_attention(page_tables, query_lengths, context_lengths, page_tokens)
    write_pages(keys, values, k, v, attention)
    o = paged_attention(q, keys, values, attention, scale=head_dim**-0.5)

With `deterministic=True` in both plans, and `invariant_matmul` for the base layers, a request's result does not
depend on who shares its batch. Every op has a plain torch reference of the same signature (`kernels.lora.reference`,
`kernels.attention.reference`).

    lora        shrink and expand: plan, weights, and strategies for CPUs and for Triton
    attention   paged attention: plan, and the same for it
    bench       what they cost: on the CPU, and beside their peers on a GPU

Shared by both: `plan`, `launch`, `choice`, `errors`, and `invariant` for the base layers. `cases` makes up batches for
tests and benchmarks, `compile_check` compiles every kernel for GPUs that need not be there.
"""

from kernels.attention.ops import paged_attention, write_pages
from kernels.attention.plan import AttentionPlan, plan_attention
from kernels.errors import KernelError
from kernels.invariant import invariant_matmul
from kernels.lora.ops import lora_add, lora_expand, lora_shrink
from kernels.lora.plan import NO_ADAPTER, BatchPlan, plan_batch
from kernels.lora.rows import DenseRows, PagedRows, pack_rows
from kernels.lora.weights import LoraWeights

__all__ = [
    "NO_ADAPTER",
    "AttentionPlan",
    "BatchPlan",
    "DenseRows",
    "KernelError",
    "LoraWeights",
    "PagedRows",
    "invariant_matmul",
    "lora_add",
    "lora_expand",
    "lora_shrink",
    "pack_rows",
    "paged_attention",
    "plan_attention",
    "plan_batch",
    "write_pages",
]
