"""Shared models: built once a session, read only."""

from __future__ import annotations

import backend  # noqa: F401  # isort: skip  # before torch: it says how torch's threads wait for each other

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import torch

from backend.worker.main import assemble

from .tiny import build_model, configs, save_adapters, save_tokenizer
from .worker.client import Client, config, serve


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """A tiny model has nothing to share out, and threads that wait for each other crawl on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with its tokenizer and a chat template."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    build_model(configs()["llama"], folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def adapter_folders(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters of the tiny Llama: different ranks, modules and scalings."""
    return save_adapters(model_folder, tmp_path_factory.mktemp("adapters"))


@pytest.fixture
async def client(model_folder: Path, adapter_folders: dict[str, Path]) -> AsyncIterator[Client]:
    worker = assemble(config(model_folder, adapters={"small": str(adapter_folders["small"])}))
    async for client in serve(worker):
        yield client
