"""What a model is, read from config.json: one frozen description that the decoder runs, whatever the family.

    family     models                      differs by
    llama      Llama, Mistral              -
    qwen2      Qwen2, Qwen2.5              -
    qwen3      Qwen3                       RMSNorm on every head of q and k
    gemma3     Gemma 3 (text)              (1 + w) RMSNorm, norms after attention and MLP too, embeddings scaled by
                                           sqrt(hidden), sliding window in 5 of 6 layers with a rotary base of its own

Biases of projections are used wherever the weights have them (Qwen2: on q, k and v). A key that would change the
numbers and is not implemented is refused here, by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.models.errors import LoadError

Config = Mapping[str, Any]

FAMILIES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3_text": "gemma3"}
ACTIVATIONS = ("silu", "gelu_pytorch_tanh")
ROPE_TYPES = ("default", "linear", "llama3")
REFUSED = (
    "quantization_config",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "use_bidirectional_attention",
)


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary embedding: base, and how positions are stretched ('linear': RoFormer positions / factor;
    'llama3': Llama 3.1's wavelength-dependent factor)."""

    theta: float
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_positions: int = 8192


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """`window`: a token sees itself and the window - 1 tokens before it; None: all of them."""

    window: int | None
    rope: RopeSpec


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """How the model's authors sample: what a request that does not say gets (generation_config.json, as in vLLM)."""

    temperature: float = 1.0
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Sizes in elements. The projections' widths: q is heads * head_dim, k and v are kv_heads * head_dim."""

    family: str
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int
    eps: float
    activation: str
    attention_scale: float
    embedding_scale: float
    tied: bool
    layers: tuple[LayerSpec, ...]
    max_positions: int
    eos: frozenset[int]
    sampling: SamplingDefaults

    @property
    def gemma(self) -> bool:
        return self.family == "gemma3"

    @property
    def widths(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of every projection of a layer, by the name PEFT and Hugging Face know it."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = {"q_proj": (self.hidden, q), "k_proj": (self.hidden, kv), "v_proj": (self.hidden, kv)}
        mlp = {"gate_proj": (self.hidden, self.mlp), "up_proj": (self.hidden, self.mlp)}
        return {**attention, "o_proj": (q, self.hidden), **mlp, "down_proj": (self.mlp, self.hidden)}


def read_spec(folder: Path) -> ModelSpec:
    """The spec of the model in `folder`. Raises LoadError, naming the key."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise LoadError(f"{path}: cannot be read as JSON ({error})") from None
    try:
        generation = _generation(folder)
        return _spec(config, _eos(generation, config), _sampling(generation))
    except LoadError as error:
        raise LoadError(f"{path}: {error}") from None
    except KeyError as error:
        raise LoadError(f"{path}: {error.args[0]} is missing") from None


def _spec(config: Config, eos: frozenset[int], sampling: SamplingDefaults) -> ModelSpec:
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise LoadError(f"model_type {kind!r} is not supported; expected one of {', '.join(FAMILIES)}")
    for key in REFUSED:
        if config.get(key):
            raise LoadError(f"{key} = {config[key]!r} is not supported")
    family, hidden, heads = FAMILIES[kind], config["hidden_size"], config["num_attention_heads"]
    gemma = family == "gemma3"
    head_dim = config.get("head_dim") or hidden // heads
    return ModelSpec(
        family=family,
        hidden=hidden,
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        mlp=config["intermediate_size"],
        vocab=config["vocab_size"],
        eps=config["rms_norm_eps"],
        activation=_activation(config),
        attention_scale=(config["query_pre_attn_scalar"] if gemma else head_dim) ** -0.5,
        embedding_scale=hidden**0.5 if gemma else 1.0,
        tied=config.get("tie_word_embeddings", gemma),
        layers=_layers(config, kind),
        max_positions=config["max_position_embeddings"],
        eos=eos,
        sampling=sampling,
    )


def _activation(config: Config) -> str:
    key = "hidden_activation" if config.get("hidden_activation") else "hidden_act"
    name = str(config[key])
    if name not in ACTIVATIONS:
        raise LoadError(f"{key} = {name!r} is not supported; expected one of {', '.join(ACTIVATIONS)}")
    return name


def _layers(config: Config, kind: str) -> tuple[LayerSpec, ...]:
    types = config.get("layer_types") or _layer_types(config, kind)
    if len(types) != config["num_hidden_layers"]:
        raise LoadError(f"layer_types has {len(types)} entries; expected {config['num_hidden_layers']}")
    return tuple(_layer(config, name) for name in types)


def _layer(config: Config, kind: str) -> LayerSpec:
    if kind not in ("full_attention", "sliding_attention"):
        raise LoadError(f"layer_types: {kind!r} is not supported; expected full_attention or sliding_attention")
    return LayerSpec(config["sliding_window"] if kind == "sliding_attention" else None, _rope(config, kind))


def _layer_types(config: Config, kind: str) -> list[str]:
    """Older files do not list the layers' kinds; each family had a rule of its own."""
    layers = range(config["num_hidden_layers"])
    if kind == "gemma3_text":
        pattern = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or 6
        sliding = [bool((layer + 1) % pattern) for layer in layers]
    elif kind == "mistral":
        sliding = [config.get("sliding_window") is not None for _ in layers]
    else:
        first = config["max_window_layers"] if config.get("use_sliding_window") else len(layers)
        sliding = [layer >= first for layer in layers]
    return ["sliding_attention" if slides else "full_attention" for slides in sliding]


def _rope(config: Config, layer_kind: str) -> RopeSpec:
    settings = config.get("rope_parameters")
    if settings is None:
        settings = _older_rope(config, layer_kind)
    settings = settings.get(layer_kind, settings)
    kind = settings.get("rope_type") or settings.get("type") or "default"
    if kind not in ROPE_TYPES:
        raise LoadError(f"rope type {kind!r} is not supported; expected one of {', '.join(ROPE_TYPES)}")
    if settings.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
        raise LoadError("partial_rotary_factor is not supported; expected 1.0")
    known = {
        "factor": "factor",
        "low_freq_factor": "low_freq_factor",
        "high_freq_factor": "high_freq_factor",
        "original_max_position_embeddings": "original_positions",
    }
    given = {name: settings[key] for key, name in known.items() if settings.get(key) is not None}
    return RopeSpec(theta=settings.get("rope_theta", config.get("rope_theta", 10000.0)), kind=kind, **given)


def _older_rope(config: Config, layer_kind: str) -> Config:
    if layer_kind == "sliding_attention" and config["model_type"] == "gemma3_text":
        return {"rope_theta": config["rope_local_base_freq"]}
    return {"rope_theta": config.get("rope_theta", 10000.0), **(config.get("rope_scaling") or {})}


def _generation(folder: Path) -> Config:
    """generation_config.json, empty where there is none. Raises LoadError."""
    path = folder / "generation_config.json"
    if not path.is_file():
        return {}
    try:
        found: Config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise LoadError(f"{path.name} cannot be read as JSON ({error})") from None
    return found


def _eos(generation: Config, config: Config) -> frozenset[int]:
    """The tokens that end an output; generation_config.json, where it names any, knows better than config.json."""
    found = generation.get("eos_token_id")
    value = config.get("eos_token_id") if found is None else found
    if value is None:
        return frozenset()
    return frozenset(value if isinstance(value, list) else [value])


def _sampling(generation: Config) -> SamplingDefaults:
    chosen = {}
    for name, most in (("temperature", 2.0), ("top_p", 1.0)):
        value = generation.get(name)
        if value is None:
            continue
        if not (isinstance(value, int | float) and 0 <= value <= most):
            raise LoadError(f"generation_config.json: {name} is {value!r}; expected a number from 0 to {most:g}")
        chosen[name] = float(value)
    return SamplingDefaults(**chosen)
