"""The worker's settings: what is wrong is refused by name, before anything is loaded."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from backend.worker.config import WorkerSettings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kv_token": 1}, "Extra inputs are not permitted"),
        ({"dtype": "int8"}, "'bfloat16' or 'float32'"),
        ({"device": "gpu"}, "cuda"),
        ({"port": 70000}, "less than or equal to 65535"),
        ({"model": ""}, "model is empty; expected smollm2"),
        ({"adapters": {"smollm2": "x"}}, "adapter 'smollm2' has the name of the base model"),
    ],
)
def test_settings_with_a_mistake_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        WorkerSettings(**options)
