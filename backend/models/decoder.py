"""The decoder: one plain transformer that every supported family is an instance of (see spec.py).

Rows of a forward pass are tokens of any mixture of requests. The linear layers do not care whose they are; attention
goes over each request's own pages (PagedAttention, arXiv:2309.06180, section 4.1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import embedding, gelu, silu

from backend.models.batch import Batch
from backend.models.errors import LoadError
from backend.models.kv_cache import KvCache
from backend.models.linear import Linear
from backend.models.lora import GROUPS
from backend.models.rope import Rope, rotate
from backend.models.spec import LayerSpec, ModelSpec, read_spec
from backend.models.weights import Weights
from kernels import paged_attention, write_pages

CPU = torch.device("cpu")
BLOCKS = ("self_attn", "self_attn", "mlp", "mlp")  # where each of lora.GROUPS lives
IGNORED = (".rotary_emb.inv_freq", "lm_head.weight")  # recomputed; a copy of the embeddings


@dataclass(frozen=True, slots=True)
class Projection:
    """One or several projections of the same input as one layer, named after the first."""

    name: str
    linear: Linear


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of a layer. RMSNorm weights are float32. None: the family has no such norm."""

    spec: LayerSpec
    qkv: Projection
    out: Projection
    gate_up: Projection
    down: Projection
    norm_in: Tensor
    norm_qk: Tensor | None
    norm_attended: Tensor | None
    norm_mlp: Tensor
    norm_fed: Tensor | None


class Decoder:
    """A model ready to run, where its weights lie. `max_len` positions are prepared."""

    def __init__(self, spec: ModelSpec, weights: Weights, max_len: int, on_layer: Callable[[], None]) -> None:
        self.spec = spec
        self._embedding = weights.take("model.embed_tokens.weight", spec.vocab, spec.hidden)
        self.dtype = self._embedding.dtype
        self.device = self._embedding.device
        self._scale = torch.tensor(spec.embedding_scale, dtype=self.dtype, device=self.device)
        self._layers: list[Layer] = []
        for index, layer_spec in enumerate(spec.layers):
            self._layers.append(_Loader(spec, weights, f"model.layers.{index}").layer(layer_spec))
            on_layer()
        self._norm = _norm_weight(spec, weights, "model.norm.weight", spec.hidden)
        head = self._embedding if spec.tied else weights.take("lm_head.weight", spec.vocab, spec.hidden)
        self._head = Linear(head)
        weights.refuse_leftovers(IGNORED)
        ropes = {layer.rope for layer in spec.layers}
        self._ropes = {rope: Rope(rope, spec.head_dim, max_len, self.dtype, self.device) for rope in ropes}

    @torch.inference_mode()
    def forward(self, batch: Batch, cache: KvCache) -> Tensor:
        """Run `batch`, storing its keys and values. Returns float32 logits [batch.runs, vocab]."""
        x = embedding(batch.tokens, self._embedding)
        if self.spec.gemma:
            x = x * self._scale
        turns = {spec: rope.at(batch.positions) for spec, rope in self._ropes.items()}
        for index, layer in enumerate(self._layers):
            x = self._attention_block(x, index, layer, batch, cache, turns[layer.spec.rope])
            x = self._mlp_block(x, index, layer, batch)
        x = rms_norm(x.index_select(0, batch.last_rows), self._norm, self.spec.eps)
        return self._head(x)[: batch.runs].float()

    def _attention_block(
        self, x: Tensor, index: int, layer: Layer, batch: Batch, cache: KvCache, turns: tuple[Tensor, Tensor]
    ) -> Tensor:
        spec = self.spec
        heads = _project(layer.qkv, rms_norm(x, layer.norm_in, spec.eps), index, batch)
        heads = heads.view(len(x), -1, spec.head_dim)
        queries_keys, values = heads.tensor_split([spec.heads + spec.kv_heads], dim=1)
        if layer.norm_qk is not None:
            queries_keys = rms_norm(queries_keys, layer.norm_qk, spec.eps)
        queries, keys = rotate(queries_keys, *turns).tensor_split([spec.heads], dim=1)
        attended = torch.zeros_like(queries)
        store = (cache.keys[index], cache.values[index])
        rows, plan = batch.stored
        write_pages(*store, keys[rows], values[rows], plan)
        for rows, plan in batch.attention:
            attended[rows] = paged_attention(
                queries[rows], *store, plan, scale=spec.attention_scale, window=layer.spec.window
            )
        y = _project(layer.out, attended.flatten(1), index, batch)
        return x + (y if layer.norm_attended is None else rms_norm(y, layer.norm_attended, spec.eps))

    def _mlp_block(self, x: Tensor, index: int, layer: Layer, batch: Batch) -> Tensor:
        normed = rms_norm(x, layer.norm_mlp, self.spec.eps)
        gate, up = _project(layer.gate_up, normed, index, batch).chunk(2, dim=-1)
        gate = silu(gate) if self.spec.activation == "silu" else gelu(gate, approximate="tanh")
        y = _project(layer.down, gate * up, index, batch)
        return x + (y if layer.norm_fed is None else rms_norm(y, layer.norm_fed, self.spec.eps))


def load_decoder(
    folder: Path,
    dtype: torch.dtype,
    max_len: int,
    device: torch.device = CPU,
    on_layer: Callable[[], None] = lambda: None,
) -> Decoder:
    """The model in `folder` on `device`, for requests of up to `max_len` tokens; `on_layer` is called after each layer.
    Raises LoadError."""
    spec = read_spec(folder)
    if max_len > spec.max_positions:
        raise LoadError(f"max_len is {max_len}; the model in {folder} knows {spec.max_positions} positions")
    return Decoder(spec, Weights(folder, dtype, device), max_len, on_layer)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm (arXiv:1910.07467) over the last dimension, in float32."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight).to(x.dtype)


def _project(projection: Projection, x: Tensor, index: int, batch: Batch) -> Tensor:
    y = projection.linear(x)
    batch.lora.add(index, projection.name, x, y)
    return y


class _Loader:
    """Takes the tensors of one layer."""

    def __init__(self, spec: ModelSpec, weights: Weights, prefix: str) -> None:
        self._spec = spec
        self._weights = weights
        self._prefix = prefix

    def layer(self, layer_spec: LayerSpec) -> Layer:
        gemma = self._spec.gemma
        qkv, out, gate_up, down = (self._projection(*where) for where in zip(BLOCKS, GROUPS, strict=True))
        return Layer(
            layer_spec,
            qkv,
            out,
            gate_up,
            down,
            norm_in=self._norm("input_layernorm"),
            norm_qk=self._head_norms() if gemma or self._spec.family == "qwen3" else None,
            norm_attended=self._norm("post_attention_layernorm") if gemma else None,
            norm_mlp=self._norm("pre_feedforward_layernorm" if gemma else "post_attention_layernorm"),
            norm_fed=self._norm("post_feedforward_layernorm") if gemma else None,
        )

    def _projection(self, block: str, names: tuple[str, ...]) -> Projection:
        weights, biases, biased = [], [], False
        for name in names:
            inputs, outputs = self._spec.widths[name]
            path = f"{self._prefix}.{block}.{name}"
            weights.append(self._weights.take(f"{path}.weight", outputs, inputs))
            bias = self._weights.take_if_there(f"{path}.bias", outputs)
            biased = biased or (bias is not None and bool(bias.any()))
            biases.append(weights[-1].new_zeros(outputs) if bias is None else bias)
        return Projection(names[0], Linear(torch.cat(weights), torch.cat(biases) if biased else None))

    def _norm(self, name: str) -> Tensor:
        return _norm_weight(self._spec, self._weights, f"{self._prefix}.{name}.weight", self._spec.hidden)

    def _head_norms(self) -> Tensor:
        """One row a head, [heads + kv_heads, head_dim]: the queries' weight and the keys'."""
        spec = self._spec
        query, key = (
            _norm_weight(spec, self._weights, f"{self._prefix}.self_attn.{name}.weight", spec.head_dim)
            for name in ("q_norm", "k_norm")
        )
        return torch.cat((query.expand(spec.heads, -1), key.expand(spec.kv_heads, -1)))


def _norm_weight(spec: ModelSpec, weights: Weights, name: str, width: int) -> Tensor:
    weight = weights.take(name, width, dtype=torch.float32)
    return weight + 1.0 if spec.gemma else weight
