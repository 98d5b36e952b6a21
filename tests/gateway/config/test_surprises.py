"""What is valid and probably not meant is named."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config.load import parse_config
from gateway.config.surprises import surprises

from .test_load import GOOD, changed


def test_a_good_configuration_holds_none() -> None:
    assert not surprises(parse_config(GOOD))


def test_a_model_that_only_some_may_use_is_none() -> None:
    config: dict[str, Any] = changed("tenants.0.models", ["m"])
    config["tenants"].append({"id": "b", "keys_sha256": ["1" * 64], "models": []})
    assert not surprises(parse_config(config))


def test_surprises() -> None:
    config = changed("tenants.0.models", ["other"])
    config["pools"]["main"]["policy"] = "fcfs"
    found = "\n".join(surprises(parse_config(config)))
    assert "no tenant may use model m of pool main" in found
    assert "tenant a may use other, which no pool serves" in found
    assert "fcfs" in found


@pytest.mark.parametrize(
    ("policy", "surprising"),
    [
        ("vtc", False),
        ("vtc:slack=500", False),
        ("drr:500", False),
        ("priority:16", False),
        ("fcfs", True),
        ("lcf", True),
        ("rr", True),
        ("rpm:20", True),
    ],
)
def test_only_a_policy_without_a_bound_is_a_surprise(policy: str, surprising: bool) -> None:
    config = changed("pools.main.policy", policy)
    assert any("promises no fair share" in found for found in surprises(parse_config(config))) == surprising
