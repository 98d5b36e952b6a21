"""The settings' JSON and digest as they were recorded: replicas of two versions of this gateway must agree on them."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest

from gateway.config.load import parse_config
from gateway.pools.shared.settings import shared_settings_of

WORKERS = [{"url": "http://w1:8000", "slots": 4, "kv_tokens": 1000}, {"url": "http://w2:8000"}]
TENANTS = [
    {"id": "a", "keys_sha256": ["a" * 64], "weight": 2.0},
    {"id": "b/c", "keys_sha256": ["b" * 64], "weight": 0.5, "max_queued": 5, "rpm": 30},
]
RECORDED: list[tuple[dict[str, Any], str, str]] = [  # of the pool; digest; SHA-256 of the JSON
    ({}, "b3a0f0b4e34d7aa9", "fac1463535b28cdc"),
    ({"policy": "fcfs"}, "af5bce99a9f1c982", "15c585586918131a"),
    ({"policy": "lcf", "predict": "max_tokens"}, "9e5aba7f64684b10", "6e36a0cabf076a10"),
    ({"policy": "rr", "predict": "ewma"}, "aefa1df39a1861ef", "42cc951aafba7393"),
    ({"policy": "rpm:20", "predict": "mean:8"}, "508b63bea3057802", "fd429e384231cbbc"),
    ({"policy": "drr:500", "predict": "quantile:0.9"}, "0028c98f1f1d2877", "0c96161005e2868c"),
    ({"policy": "drr:9007199254741", "predict": "quantile:1"}, "faaeb377d72935a7", "e5d23651d61976f6"),
    ({"policy": "rpm:007"}, "0bc6088ad675a72f", "662a234190bbb97a"),
    ({"cost": "weighted:1,2,0.1"}, "62d4fa3e1124a429", "ca8f86647b5b28c3"),
    ({"cost": "profiled"}, "d982c22a9f9cbf73", "f05580f12798d65a"),
    ({"cost": "profiled:a=3,cached=0.25"}, "dc24990f4141279d", "c15ccc8f94acbed8"),
    ({"cost": "weighted:input=3,output=5"}, "80f7767b0531e6d5", "322fb5bcb74a4164"),
    (
        {"cost": {"kind": "piecewise", "input": [[0, 0], [100, 80.5]], "output": [[0, 1], [50, 200]], "cached": 0.5}},
        "851b5e67216a1745",
        "228558f44cd2c2b0",
    ),
    ({"cost": {"kind": "weighted", "input": 1, "output": 4}}, "21c8d2a42c7e294b", "57cd68c51753b9ad"),
    ({"cost": "weighted:1,4"}, "21c8d2a42c7e294b", "57cd68c51753b9ad"),  # the same, in short
]


@pytest.mark.parametrize(("more", "digest", "text"), RECORDED)
def test_settings_are_the_same_byte_for_byte(more: dict[str, Any], digest: str, text: str) -> None:
    pools = {"main": {"models": ["m"], "workers": WORKERS, **more}}
    config = parse_config({"store": {"url": "redis://h:6379/0"}, "revision": 3, "tenants": TENANTS, "pools": pools})
    settings = shared_settings_of(config.pools["main"], config)
    assert settings.digest == digest
    assert sha256(settings.text.encode()).hexdigest()[:16] == text
