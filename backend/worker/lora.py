"""Which adapters a worker serves, and which of them lie packed on the device."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from backend.models.lora import AdapterPack
from backend.models.peft_format import Adapter
from backend.models.spec import ModelSpec
from backend.worker.errors import BadRequest, ModelNotFound


class AdapterStore:
    """The adapters that requests may name, and the pack, on `device`, of those that any request may still use."""

    def __init__(self, spec: ModelSpec, dtype: torch.dtype, device: torch.device) -> None:
        self._spec = spec
        self._dtype = dtype
        self._device = device
        self._loaded: dict[str, Adapter] = {}
        self.pack = AdapterPack((), spec, dtype, device)

    @property
    def loaded(self) -> tuple[Adapter, ...]:
        return tuple(self._loaded.values())

    def find(self, name: str) -> Adapter | None:
        return self._loaded.get(name)

    def add(self, adapter: Adapter, in_use: Iterable[Adapter]) -> None:
        """Serve `adapter`. Raises BadRequest when its name is taken."""
        if adapter.name in self._loaded:
            raise BadRequest(f"adapter {adapter.name!r} is already loaded; unload it first", "lora_name")
        self._loaded[adapter.name] = adapter
        self._repack(in_use)

    def remove(self, name: str, in_use: Iterable[Adapter]) -> None:
        """Serve it no more; requests that use it finish with it. Raises ModelNotFound."""
        if self._loaded.pop(name, None) is None:
            raise ModelNotFound(f"adapter {name!r} is not loaded", "lora_name")
        self._repack(in_use)

    def _repack(self, in_use: Iterable[Adapter]) -> None:
        alive = dict.fromkeys([*self._loaded.values(), *in_use])
        self.pack = AdapterPack(tuple(alive), self._spec, self._dtype, self._device)
