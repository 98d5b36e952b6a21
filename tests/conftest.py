"""What every test may count on, whatever machine it runs on."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from backend.errors import LoadError
from backend.models.cache import cache_root


@pytest.fixture(scope="session", autouse=True)
def _no_proxy() -> Iterator[None]:
    """What listens here is not asked by way of $http_proxy; clients and programs that tests start inherit that."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("no_proxy", "127.0.0.1,localhost")
        yield


@pytest.fixture(scope="session", autouse=True)
def _models_can_be_kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where the home is read-only or missing, a converted model lies with the other files of the run."""
    with pytest.MonkeyPatch.context() as environment:
        if not _home_keeps_models():
            environment.setenv("FAIRGATE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def _home_keeps_models() -> bool:
    try:
        root = cache_root()
        root.mkdir(parents=True, exist_ok=True)
    except (LoadError, OSError):
        return False
    return os.access(root, os.W_OK) or os.access(root / "smollm2-135m-instruct" / "model.safetensors", os.R_OK)
