"""Reading a model's folder: old and new spellings of config.json, and every refusal by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from backend.models.cache import resolve_model
from backend.models.decoder import load_decoder
from backend.models.errors import LoadError
from backend.models.spec import ModelSpec, RopeSpec, SamplingDefaults, read_spec
from backend.models.tokenizer import Tokenizer

from ..tiny import build_model, configs

GEMMA = {
    "model_type": "gemma3_text",
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-6,
    "vocab_size": 1000,
    "max_position_embeddings": 32768,
    "sliding_window": 512,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "eos_token_id": [1, 106],
}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "vocab_size": 100,
    "max_position_embeddings": 512,
    "rope_theta": 5e5,
}


def spec_of(folder: Path, config: Mapping[str, Any]) -> ModelSpec:
    (folder / "config.json").write_text(json.dumps(config))
    return read_spec(folder)


def test_a_gemma_3_folder_as_it_was_first_published(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, GEMMA)
    assert [layer.window for layer in spec.layers] == [512] * 5 + [None, 512]
    assert [layer.rope.theta for layer in spec.layers] == [1e4] * 5 + [1e6, 1e4]
    assert (spec.tied, spec.embedding_scale, spec.attention_scale) == (True, 640**0.5, 1 / 16)
    assert spec.eos == {1, 106}


def test_a_llama_3_1_folder_as_it_was_first_published(tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 7}')
    spec = spec_of(tmp_path, LLAMA | {"rope_scaling": scaling, "eos_token_id": 2})
    assert spec.layers[0].rope == RopeSpec(5e5, "llama3", 8.0, 1.0, 4.0, 8192)
    assert (spec.kv_heads, spec.head_dim, spec.tied, spec.eos) == (4, 16, False, {7})


def test_sampling_is_what_the_authors_chose_unless_they_did_not(tmp_path: Path) -> None:
    assert spec_of(tmp_path, LLAMA).sampling == SamplingDefaults(1.0, 1.0)
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.6, "top_p": 0.9}')
    assert spec_of(tmp_path, LLAMA).sampling == SamplingDefaults(0.6, 0.9)
    (tmp_path / "generation_config.json").write_text('{"temperature": "hot"}')
    with pytest.raises(LoadError, match=r"generation_config\.json: temperature is 'hot'"):
        spec_of(tmp_path, LLAMA)


def test_sliding_windows_before_layer_types_were_written_out(tmp_path: Path) -> None:
    mistral = spec_of(tmp_path, LLAMA | {"model_type": "mistral", "sliding_window": 64})
    assert [layer.window for layer in mistral.layers] == [64, 64]
    qwen = LLAMA | {"model_type": "qwen2", "sliding_window": 64, "max_window_layers": 1}
    assert [layer.window for layer in spec_of(tmp_path, qwen).layers] == [None, None]
    assert [layer.window for layer in spec_of(tmp_path, qwen | {"use_sliding_window": True}).layers] == [None, 64]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "model_type 'mamba' is not supported; expected one of llama"),
        ({"hidden_act": "relu"}, "hidden_act = 'relu' is not supported; expected one of silu"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope type 'yarn' is not supported"),
        ({"rope_scaling": {"type": "dynamic"}}, "rope type 'dynamic' is not supported"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is not supported"),
        ({"quantization_config": {"bits": 4}}, "quantization_config = {'bits': 4} is not supported"),
        ({"final_logit_softcapping": 30.0}, r"final_logit_softcapping = 30\.0 is not supported"),
        ({"layer_types": ["full_attention"]}, "layer_types has 1 entries; expected 2"),
        ({"layer_types": ["full_attention", "chunked_attention"]}, "'chunked_attention' is not supported"),
        ({"rms_norm_eps": None, "vocab_size": ...}, "vocab_size is missing"),
    ],
)
def test_a_config_that_is_not_supported_is_refused_by_key(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = {key: value for key, value in (LLAMA | change).items() if value is not ...}
    with pytest.raises(LoadError, match=message) as refusal:
        spec_of(tmp_path, config)
    assert str(refusal.value).startswith(str(tmp_path / "config.json"))


def test_a_config_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(LoadError, match="cannot be read as JSON"):
        read_spec(tmp_path)


def test_weights_that_do_not_fit_the_config_are_refused_by_name(tmp_path: Path) -> None:
    build_model(configs()["qwen3"], tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)

    def refused(change: dict[str, torch.Tensor | None], message: str) -> None:
        save_file({name: tensor for name, tensor in (tensors | change).items() if tensor is not None}, path)
        with pytest.raises(LoadError, match=message):
            load_decoder(tmp_path, torch.float32, 64)

    name = "model.layers.1.self_attn.q_norm.weight"
    refused({name: None}, f"the tensor {name} is missing")
    refused({name: torch.ones(3)}, rf"{name} has shape \(3,\); config.json says \(16,\)")
    refused({"model.layers.0.self_attn.sinks": torch.ones(4)}, "1 tensors are not supported, the first is .*sinks")
    path.write_bytes(b"short")
    with pytest.raises(LoadError, match="weights cannot be read"):
        load_decoder(tmp_path, torch.float32, 64)
    path.unlink()
    with pytest.raises(LoadError, match="weights cannot be read"):
        load_decoder(tmp_path, torch.float32, 64)


def test_sharded_weights_are_one_model(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    model = build_model(configs()["llama"], whole)
    model.save_pretrained(parts, max_shard_size="50KB")
    assert len(list(parts.glob("*.safetensors"))) > 1
    downs = [load_decoder(folder, torch.float32, 64)._layers[2].down.linear for folder in (whole, parts)]
    x = torch.randn(2, 80)
    assert torch.equal(downs[0](x), downs[1](x))


def test_more_positions_than_the_model_knows(tmp_path: Path) -> None:
    build_model(configs()["llama"], tmp_path)
    with pytest.raises(LoadError, match=r"max_len is 257; the model .* knows 256 positions"):
        load_decoder(tmp_path, torch.float32, 257)


def test_a_folder_without_a_model_or_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"no config\.json in this folder; expected smollm2"):
        resolve_model(str(tmp_path))
    build_model(configs()["llama"], tmp_path)
    with pytest.raises(LoadError, match="no fast tokenizer"):
        Tokenizer(tmp_path)
