"""The adapters that a worker serves: names are taken once, and nobody loses an adapter that it runs with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from backend.models.decoder import Decoder, load_decoder
from backend.models.peft_format import Adapter, load_adapter
from backend.worker.errors import BadRequest, ModelNotFound
from backend.worker.lora import AdapterStore


@pytest.fixture(scope="module")
def decoder(model_folder: Path) -> Decoder:
    return load_decoder(model_folder, torch.float32, 128)


@pytest.fixture(scope="module")
def adapters(decoder: Decoder, adapter_folders: dict[str, Path]) -> dict[str, Adapter]:
    return {name: load_adapter(name, folder, decoder.spec) for name, folder in adapter_folders.items()}


def test_the_store_keeps_what_running_requests_use(decoder: Decoder, adapters: dict[str, Adapter]) -> None:
    store = AdapterStore(decoder.spec, decoder.dtype, decoder.device)
    small, full = adapters["small"], adapters["all"]
    store.add(small, [])
    store.add(full, [])
    with pytest.raises(BadRequest, match="already loaded"):
        store.add(small, [])
    store.remove("small", in_use=[small])
    assert store.find("small") is None
    assert store.pack.slot(small) != store.pack.slot(full)
    with pytest.raises(ModelNotFound, match="'small' is not loaded"):
        store.remove("small", [])
