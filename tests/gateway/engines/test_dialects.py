"""What engines say of themselves, each in its own words."""

from __future__ import annotations

import pytest

from gateway.engines.dialect import Dialect, Size
from gateway.engines.plain import PLAIN
from gateway.engines.registry import dialect_of
from gateway.engines.sglang import SGLANG
from gateway.engines.vllm import VLLM
from gateway.errors import EngineRefused, UpstreamError

WAITING = 'vllm:num_requests_waiting{engine="0",model_name="m"} 3.0\n'
CACHE = 'vllm:cache_config_info{block_size="16",enable_prefix_caching="True",num_gpu_blocks="2048"} 1.0\n'


@pytest.mark.parametrize(
    ("metrics", "dialect", "waiting", "size"),
    [
        (WAITING + CACHE, VLLM, 3, Size(None, 32768)),
        (WAITING * 2, VLLM, 6, Size()),
        ('vllm:cache_config_info{block_size="None",num_gpu_blocks="0"} 1.0', VLLM, 0, Size()),
        ('vllm:cache_config_info{block_size="16",max_num_seqs="5",num_cpu_blocks="9"} 1.0', VLLM, 0, Size(5, 144)),
        ("vllm:num_requests_waiting{a=} x\n", VLLM, 0, Size()),
        ("# HELP x\nsglang:num_queue_reqs 2\n", SGLANG, 2, Size()),
        ("process_cpu_seconds 2\nother_vllm:num_requests_waiting 3\n", PLAIN, 0, Size()),
        ("", PLAIN, 0, Size()),
    ],
)
def test_what_engines_say_of_themselves(metrics: str, dialect: Dialect, waiting: int, size: Size) -> None:
    found = dialect_of(metrics)
    assert found is dialect
    assert found.count_waiting(metrics) == waiting
    assert found.size(metrics) == size


@pytest.mark.parametrize("dialect", [VLLM, SGLANG, PLAIN])
@pytest.mark.parametrize(
    ("status", "kind"),
    [(429, "overflow"), (503, "overflow"), (401, "status"), (403, "status"), (500, "status"), (302, "status")],
)
def test_an_engine_that_is_full_or_broken(dialect: Dialect, status: int, kind: str) -> None:
    error = dialect.not_taken(status, b"")
    assert isinstance(error, UpstreamError)
    assert error.kind == kind


@pytest.mark.parametrize("status", [400, 404, 422])
def test_the_clients_own_mistake_is_handed_on(status: int) -> None:
    error = PLAIN.not_taken(status, b"why")
    assert isinstance(error, EngineRefused)
    assert (error.status, error.body()) == (status, b"why")
