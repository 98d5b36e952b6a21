"""The gateways' configuration: the packaged demonstration, that in front of mock engines, and what addresses add.

`fairgate serve`, `cluster` and `compare --live`, trials and benchmarks all have theirs from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.resources import files
from typing import Any

import yaml

POOL = "main"  # every deployment has this one
DEMO_KEYS = {"alice": "demo-alice", "bob": "demo-bob", "carol": "demo-carol"}
DEEP_QUEUE = {"max_requests": 100_000, "max_requests_per_tenant": 100_000, "timeout_s": 3600.0}


def demo_settings(model: str) -> dict[str, Any]:
    """The packaged demonstration for this model, in which only addresses are still to be changed."""
    settings: dict[str, Any] = yaml.safe_load(files("fairgate").joinpath("demo.yaml").read_text())
    settings["pools"][POOL]["models"] = [model]
    return settings


def mock_settings(model: str, weights: Mapping[str, float], pool: Mapping[str, Any]) -> dict[str, Any]:
    """For mock engines, whose room is never overrun: gateways reserve `max_tokens`. `weights` by tenant, whose keys are
    `key_of`; `pool` are settings of that section."""
    tenants = [
        {"id": name, "weight": float(weight), "keys_sha256": [sha256(key_of(name).encode()).hexdigest()]}
        for name, weight in weights.items()
    ]
    return {
        "pools": {POOL: {"models": [model], "predict": "max_tokens", "queue": DEEP_QUEUE, **pool}},
        "tenants": tenants,
        "health": {"interval_s": 0.5},
        "observe": {"access_log": False},
    }


def key_of(tenant: str) -> str:
    """The API key of a tenant in front of mock engines."""
    return f"key-of-{tenant}"


def gateway_settings(
    common: Mapping[str, Any], port: int, workers: Sequence[Mapping[str, Any]], store: Mapping[str, Any] | None
) -> dict[str, Any]:
    """One gateway's, from those that all have in common: where it listens, its workers, and its store if it has one."""
    pools = {POOL: {**common["pools"][POOL], "workers": list(workers)}}
    shared = {"revision": 1, "store": dict(store)} if store else {}
    return {**common, "listen": {"host": "127.0.0.1", "port": port}, "pools": pools, **shared}
