"""What the plans of a step share. A plan is built once per step from host lists, which is where a scheduler has them,
goes to the device in one copy, and remembers what the layers of the step derive from it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cached_property
from typing import TypeVar, cast

import torch
from torch import Tensor

TILE_TOKENS = 16  # the smallest row count of a tensor-core product; also the fixed tile of the deterministic mode
T = TypeVar("T")


class StepPlan:
    """The base of both plans: which token uses which adapter, and which sees which pages."""

    @cached_property
    def _derived(self) -> dict[Hashable, object]:
        return {}

    def derive(self, key: Hashable, build: Callable[[], T]) -> T:
        """What `build` returns, built once per plan and key: layers that agree in the key share it."""
        if key not in self._derived:
            self._derived[key] = build()
        return cast(T, self._derived[key])


def to_device(host: Tensor, device: torch.device) -> Tensor:
    """A copy that the host does not wait for, where the device allows it."""
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)
