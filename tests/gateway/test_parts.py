"""The small parts, each against what it promises."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import TenantConfig
from gateway.engines.prober import read_size, read_waiting
from gateway.http.server import bearer
from gateway.openai.assemble import Assembler
from gateway.openai.estimate import Estimator, raw_tokens
from gateway.openai.meter import to_json, visible
from gateway.pools.drain_rate import DrainRate, retry_headers
from gateway.pools.slots import SlotLimit
from gateway.tenants.auth import Keyring
from gateway.tenants.quota import LocalQuotas

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
TRICKY = st.sampled_from(["usage", ',"usage":{}', '"usage":', "}", '\\"', ""])


@given(
    st.dictionaries(st.text(max_size=4) | TRICKY, JSON | TRICKY, max_size=3),
    st.sampled_from([None, {"prompt_tokens": 1, "details": {"x": {}}}, {}]),
    JSON | TRICKY,
    st.booleans(),
    st.booleans(),
)
def test_what_the_client_did_not_ask_for_is_taken_out_and_nothing_else(
    rest: dict[str, Any], usage: Any, content: Any, wants: bool, spaced: bool
) -> None:
    rest.pop("usage", None)
    choices = [{"delta": {"content": content, "usage": 1}}]
    chunk = {**rest, "choices": choices, "usage": usage}
    data = json.dumps(chunk, separators=None if spaced else (",", ":")).encode()
    shown = visible(json.loads(data), data, wants, False)
    assert shown is not None
    expected = {**rest, "choices": choices, **({"usage": None} if wants else {})}
    assert json.loads(shown) == expected


def test_the_last_usage_is_shown_to_those_who_asked() -> None:
    data = b'{"choices":[],"usage":{"prompt_tokens":1}}'
    assert visible(json.loads(data), data, True, False) == data
    assert visible(json.loads(data), data, False, False) is None


def test_a_lone_surrogate_survives() -> None:
    assert json.loads(to_json({"a": "\ud800"}).decode("utf-8", "surrogatepass")) == {"a": "\ud800"}


@given(st.lists(st.text(max_size=3), min_size=1, max_size=5), st.lists(st.integers(0, 2), max_size=12))
def test_assembly_does_not_depend_on_how_choices_interleave(parts: list[str], turns: list[int]) -> None:
    queues = {index: list(parts) for index in range(3)}
    whole = Assembler()
    order = [*turns, *(index for index in range(3) for _ in parts)]
    for index in order:
        if queues[index]:
            delta = {"role": "assistant", "content": queues[index].pop(0), "new_field": [index]}
            finish = None if queues[index] else "stop"
            whole.add({"object": "chat.completion.chunk", "choices": [
                {"index": index, "delta": delta, "finish_reason": finish}]})  # fmt: skip
    answer = json.loads(whole.body())
    assert answer["object"] == "chat.completion"
    for index, choice in enumerate(answer["choices"]):
        assert choice["index"] == index
        assert choice["finish_reason"] == "stop"
        message = {"role": "assistant", "content": "".join(parts), "new_field": [index] * len(parts)}
        assert choice["message"] == message


def test_retry_after_follows_the_measured_rate() -> None:
    rate = DrainRate(lambda: 0.0)
    for k in range(300):
        rate.dispatched(k / 10)  # ten a second
    soon, late = rate.retry_after(20, 30.0), rate.retry_after(200, 30.0)
    assert 2 <= soon <= 4
    assert late == pytest.approx(10 * soon)
    assert rate.retry_after(10**9, 30.0) == 60.0
    assert rate.retry_after(0, 30.0) == 1.0


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 10_000), st.floats(0, 1e6))
def test_retry_after_is_never_zero_and_always_bounded(chance: float, waiting: int, now: float) -> None:
    headers = retry_headers(DrainRate(lambda: chance).retry_after(waiting, now))
    assert 1 <= int(headers["Retry-After"]) <= 75
    assert 1 <= int(headers["retry-after-ms"]) <= 75_000


def test_refused_clients_do_not_come_back_all_at_once() -> None:
    chances = iter([0.0, 0.5])
    rate = DrainRate(lambda: next(chances))
    assert rate.retry_after(10, 0.0) < rate.retry_after(10, 0.0)


def test_slots_shrink_at_once_and_grow_a_round_at_a_time() -> None:
    limit = SlotLimit(8)
    first = limit.overflowed(running=4)
    assert limit.limit == 0, "nothing may be sent while it is held off"
    limit.resume()
    assert limit.limit == 4
    assert limit.overflowed(running=0) == 2 * first, "an engine that stays full is asked less and less often"
    limit.resume()
    assert limit.limit == 1, "with nothing of ours running, one request must probe"
    for rounds in range(1, 8):
        for _ in range(limit.limit):
            limit.served()
        assert limit.limit == 1 + rounds
    limit.served()
    assert limit.limit == 8


def test_one_request_may_wait_inside_the_engine() -> None:
    limit = SlotLimit(32)
    limit.waiting(1, running=17)
    assert limit.limit == 32
    limit.waiting(16, running=32)
    assert limit.limit == 17


def test_the_estimate_learns_each_models_ratio() -> None:
    estimator = Estimator()
    body = {"messages": [{"role": "user", "content": "x" * 400}]}
    raw = raw_tokens(body)
    assert raw == 101 + 4
    for _ in range(60):
        estimator.observe("m", raw, 210)
    assert estimator.estimate("m", raw) == pytest.approx(210, rel=0.02)
    assert estimator.estimate("other", raw) == 105


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"prompt": [1, 2, 3]}, 3),
        ({"prompt": [[1, 2], [3]]}, 3),
        ({"prompt": ["abcd", "efgh"]}, 2),
        ({"prompt": "日本"}, 6 / 4),
        ({"messages": [{"content": [{"image_url": {"url": "data:image/png;base64," + "A" * 9999}}]}]}, 256 + 4),
        ({}, 0),
    ],
)
def test_what_is_counted(body: dict[str, Any], tokens: float) -> None:
    assert raw_tokens(body) == tokens


@pytest.mark.parametrize(
    ("authorization", "x_api_key", "key"),
    [
        ("Bearer k", None, "k"),
        ("bearer  k ", "other", "k"),
        ("Basic k", "k2", "k2"),
        (None, None, None),
        ("Bearer ", "x", "x"),
    ],
)
def test_where_a_key_may_stand(authorization: str | None, x_api_key: str | None, key: str | None) -> None:
    assert bearer(authorization, x_api_key) == key


def test_a_tenant_may_have_several_keys() -> None:
    tenant = TenantConfig(id="a", keys_sha256=[sha256(key).hexdigest() for key in (b"k1", b"k2")])
    ring = Keyring([tenant])
    assert ring.tenant("k1") is ring.tenant("k2") is tenant


async def test_a_quota_counts_accepted_requests_only() -> None:
    tenant = TenantConfig(id="a", keys_sha256=["0" * 64], rpm=2)
    quotas = LocalQuotas([tenant])
    assert [await quotas.admit(tenant, "r", now) for now in (0.0, 10.0, 20.0)] == [None, None, 40.0]
    assert await quotas.admit(tenant, "r", 60.0) is None
    await quotas.give_back(tenant, "r", 60.0)
    assert await quotas.admit(tenant, "r", 60.0) is None
    assert quotas.headers(tenant, 60.0)["x-ratelimit-remaining-requests"] == "0"


def test_what_engines_say_of_themselves() -> None:
    vllm = 'vllm:num_requests_waiting{engine="0",model_name="m"} 3.0\n'
    vllm += 'vllm:cache_config_info{block_size="16",enable_prefix_caching="True",num_gpu_blocks="2048"} 1.0\n'
    assert read_size(vllm) == (None, 32768)
    assert read_waiting(vllm) == 3
    assert read_waiting("sglang:num_queue_reqs 2\n") == 2
    assert read_size('vllm:cache_config_info{block_size="None",num_gpu_blocks="0"} 1.0') == (None, None)
    assert read_waiting("vllm:num_requests_waiting{a=} x\n") == 0
