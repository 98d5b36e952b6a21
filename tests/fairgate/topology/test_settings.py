"""The gateways' configuration is valid in every form, and gateways differ by nothing but their addresses."""

import pytest

from fairgate.topology.settings import DEMO_KEYS, demo_settings, gateway_settings, key_of, mock_settings
from gateway.config.load import parse_config
from gateway.config.surprises import surprises

STORE = {"url": "redis://127.0.0.1:1/0"}
WORKERS = [{"url": f"http://127.0.0.1:{port}"} for port in (8101, 8102)]
ROOM = {"slots": 4, "kv_tokens": 4096}


def gateways(common, workers):
    return [gateway_settings(common, 8080 + n, workers, {**STORE, "replica": f"gateway-{n}"}) for n in (1, 2)]


def test_the_demonstration_is_a_configuration_without_surprises():
    config = parse_config(gateway_settings(demo_settings("smollm2"), 8080, WORKERS, None))
    assert surprises(config) == []
    assert {tenant.id for tenant in config.tenants} == set(DEMO_KEYS)


@pytest.mark.parametrize(
    ("common", "workers"),
    [
        (demo_settings("smollm2"), WORKERS),
        (mock_settings("mock", {"a": 2.0, "b": 1.0}, {"predict": "none"}), [{**worker, **ROOM} for worker in WORKERS]),
    ],
    ids=["demonstration", "mock engines"],
)
def test_gateways_share_one_configuration_but_for_port_and_name(common, workers):
    one, two = gateways(common, workers)
    assert surprises(parse_config(one)) == []
    assert len(one["pools"]["main"]["workers"]) == 2
    assert (one["listen"]["port"], one["store"].pop("replica")) == (8081, "gateway-1")
    assert (two["listen"]["port"], two["store"].pop("replica")) == (8082, "gateway-2")
    assert one | {"listen": None} == two | {"listen": None}


def test_without_a_store_nothing_is_said_of_one():
    settings = gateway_settings(demo_settings("smollm2"), 8080, WORKERS, None)
    assert "store" not in settings
    assert parse_config(settings).store is None


def test_settings_of_a_pool_come_last_and_tenants_have_keys_of_their_own():
    settings = mock_settings("mock", {"a": 2.0, "b": 1.0}, {"predict": "none"})
    assert settings["pools"]["main"]["predict"] == "none"
    assert len({tenant["keys_sha256"][0] for tenant in settings["tenants"]}) == 2
    assert key_of("a") != key_of("b")
