"""Tiny random models of every family, a tiny tokenizer and tiny adapters, made where a test needs them."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

EOS = "<end>"
START = "<start>"
VOCAB = 258  # 256 bytes and the two above
CHAT = (
    "{% for m in messages %}{% if m['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + m['role']) }}{% endif %}"
    "{{ '<start>' + m['role'] + ':' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start>assistant:' }}{% endif %}"
)

SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "eos_token_id": 257,
    "bos_token_id": None,
    "pad_token_id": None,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
EVERY_MODULE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS: dict[str, dict[str, Any]] = {
    "small": {"r": 2, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "all": {"r": 5, "lora_alpha": 4, "target_modules": EVERY_MODULE, "use_rslora": True},
    "patterned": {
        "r": 4,
        "lora_alpha": 4,
        "target_modules": ["q_proj", "k_proj", "up_proj", "down_proj"],
        "rank_pattern": {"k_proj": 8, r"layers\.0\.mlp\.down_proj": 1},
        "alpha_pattern": {"up_proj": 12, r"^model\.layers\.2\.self_attn\.q_proj": 1},
        "layers_to_transform": [0, 2],
    },
}


def configs() -> dict[str, PreTrainedConfig]:
    """One for every family, and for every switch a family knows."""
    return {
        "llama": LlamaConfig(**SIZES, tie_word_embeddings=True),
        "llama-untied-biased": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
        "llama-llama3-rope": LlamaConfig(**SIZES, rope_parameters=LLAMA3_ROPE),
        "llama-linear-rope": LlamaConfig(
            **SIZES, rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}
        ),
        "mistral-window": MistralConfig(**SIZES, sliding_window=9),
        "qwen2": Qwen2Config(**SIZES),
        "qwen2-window": Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=9, max_window_layers=1),
        "qwen3": Qwen3Config(**SIZES),
        "gemma3": Gemma3TextConfig(
            **SIZES,
            sliding_window=9,
            query_pre_attn_scalar=24,
            layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        ),
        "gemma3-linear-rope": Gemma3TextConfig(
            **SIZES,
            sliding_window=9,
            layer_types=["full_attention", "sliding_attention", "full_attention"],
            rope_parameters={
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        ),
    }


def build_model(config: PreTrainedConfig, folder: Path, seed: int = 0) -> PreTrainedModel:
    """A model with no weight left at its initial value (norms and biases start out at 1 and 0), saved in `folder`."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    model.save_pretrained(folder)
    return model


@functools.cache
def byte_tokenizer() -> Tokenizer:
    """Every byte is a token: most random outputs are cut characters, which is what a detokenizer has to survive."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([START, EOS])
    return tokenizer


def save_tokenizer(folder: Path, chat_template: str | None = CHAT) -> None:
    fast = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), eos_token=EOS)
    fast.chat_template = chat_template
    fast.save_pretrained(folder)


@contextmanager
def quiet_peft() -> Iterator[None]:
    """peft asks transformers for an attribute that transformers has deprecated: not ours to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def save_adapter(model_folder: Path, folder: Path, seed: int, **settings: Any) -> None:
    """A PEFT adapter of the model in `model_folder` whose B is not zero."""
    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    with quiet_peft():
        model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)


def save_adapters(model_folder: Path, root: Path) -> dict[str, Path]:
    """One adapter for each of ADAPTERS: different ranks, modules and scalings."""
    for seed, (name, settings) in enumerate(ADAPTERS.items()):
        save_adapter(model_folder, root / name, seed, **settings)
    return {name: root / name for name in ADAPTERS}


def load_reference(model_folder: Path, adapter: Path | None) -> Any:
    """What transformers and PEFT make of the same files, float32."""
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    if adapter is not None:
        with quiet_peft():
            model = PeftModel.from_pretrained(model, adapter)
    return model.eval()
