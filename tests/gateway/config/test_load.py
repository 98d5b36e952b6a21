"""Configuration: every mistake is named with its place, what was found and what was expected, all at once."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from gateway.config.load import load_config, parse_config
from gateway.errors import ConfigError

GOOD: dict[str, Any] = {
    "pools": {"main": {"models": ["m"], "workers": [{"url": "http://127.0.0.1:8000", "slots": 4}]}},
    "tenants": [{"id": "a", "keys_sha256": ["0" * 64]}],
}


def changed(path: str, value: Any) -> dict[str, Any]:
    config = deepcopy(GOOD)
    *parents, last = path.split(".")
    place: Any = config
    for part in parents:
        place = place[int(part)] if part.isdigit() else place[part]
    place[int(last) if last.isdigit() else last] = value
    return config


def test_a_good_file_is_read_and_frozen(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(GOOD))
    config = load_config(file)
    assert config.pools["main"].workers[0].slots == 4
    assert config.pools["main"].policy == "vtc"
    with pytest.raises(ValidationError):
        config.tenants[0].weight = 3.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("pools.main.workers.0.url", "ftp://x", "pools.main.workers[0].url: found 'ftp://x'; expected an address like"),
        ("pools.main.workers.0.slots", "3", "pools.main.workers[0].slots: found '3'; expected: a valid integer"),
        ("pools.main.workers.0.slot", 3, "pools.main.workers[0].slot: unknown key; expected one of url, slots"),
        ("pools.main.policy", "fifo", "pools.main.policy: found 'fifo'; policy 'fifo' is unknown; expected one of vtc"),
        ("pools.main.cost", "weighted:x", "pools.main.cost: found 'weighted:x'; cost 'weighted:x'"),
        ("pools.main.predict", "magic", "pools.main.predict: found 'magic'; predict 'magic': expected none"),
        ("pools.main.queue", {"timeout_s": 0}, "pools.main.queue.timeout_s: found 0; expected: greater than 0"),
        ("pools.main.workers", [], "pools.main.workers: found []; expected: "),
        ("tenants.0.weight", float("nan"), "tenants[0].weight: found nan; expected: "),
        ("tenants.0.weight", -1, "tenants[0].weight: found -1; expected: greater than 0"),
        ("tenants.0.models", "none", "tenants[0].models: found 'none'; expected: "),
        ("tenants.0", {"id": "a"}, "tenants[0].keys_sha256: missing; expected a list of the SHA-256"),
        ("tenants.0.id", "a b", "tenants[0].id: found 'a b'; expected: "),
        ("listen", {"port": 99999}, "listen.port: found 99999; expected: less than or equal to 65535"),
        ("limits", {"max_queued_bytes": 1}, "limits.max_queued_bytes: found 1; expected at least limits.max_queued"),
        ("limits", {"max_body_bytes": 2**30}, "limits.max_queued_bytes_per_tenant: found 67108864; expected at least"),
        ("colour", "red", "colour: unknown key; expected one of listen, pools, tenants"),
        ("groups", [{"id": "acme"}], "groups[].id: acme has no tenants in it; expected one of: none"),
        ("pools.main.models", ["m", "m"], "m stands there more than once"),
        ("tenants", [GOOD["tenants"][0], {"id": "b", "keys_sha256": ["0" * 64]}], "tenants[].keys_sha256: "),
    ],
)
def test_a_mistake_is_named(path: str, value: Any, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(changed(path, value), source="g.yaml")
    assert any(line.startswith(f"g.yaml: {named}") or named in line for line in str(caught.value).splitlines())
    assert "Traceback" not in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_all_mistakes_are_listed_at_once() -> None:
    config = changed("pools.main.policy", "fifo")
    config["tenants"][0]["weight"] = 0
    config["colour"] = 1
    with pytest.raises(ConfigError) as caught:
        parse_config(config)
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("path", "secret"), [("tenants.0.keys_sha256", "sk-secret"), ("tenants.0.keys_sha256.0", "sk-secret")]
)
def test_a_key_that_stands_in_the_wrong_place_is_not_printed(path: str, secret: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(changed(path, secret))
    assert secret not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (b"pools: [", "not valid YAML"),
        (b"- 1", "found [1] at the top; expected a mapping"),
        (b"", "found None at the top"),
        (b"\xff", "byte 0 is not UTF-8"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, text: bytes, named: str) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_bytes(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert str(caught.value).startswith(str(file))
    assert named in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "absent.yaml")


def test_a_mistake_in_the_yaml_is_shown_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("pools:\n  main: {models: [m]\ntenants: []\n")
    with pytest.raises(ConfigError, match=r"line 3, column 1: tenants: \[\]"):
        load_config(file)
