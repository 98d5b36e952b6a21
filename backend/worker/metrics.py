"""The worker's /metrics: vLLM's names, so that one gateway reads both."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from backend.worker.config import WorkerSettings
from backend.worker.engine import Stats
from backend.worker.memory.pages import PAGE


class EngineCollector(Collector):
    """Reads the engine's statistics when it is scraped."""

    def __init__(self, settings: WorkerSettings, stats: Callable[[], Stats]) -> None:
        self._settings = settings
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        yield self._gauge("vllm:num_requests_running", "Requests in the running batch.", stats.running)
        yield self._gauge("vllm:num_requests_waiting", "Requests that wait for a slot or for pages.", stats.waiting)
        used = stats.pages_used / self._settings.pages
        yield self._gauge("vllm:kv_cache_usage_perc", "KV pages reserved, 1 means all.", used)
        yield self._info(
            "vllm:cache_config_info",
            "The KV cache: tokens a page holds, and pages; max_num_seqs: requests that decode together.",
            {
                "block_size": str(PAGE),
                "num_gpu_blocks": str(self._settings.pages),
                "max_num_seqs": str(self._settings.max_running),
            },
            1.0,
        )
        yield self._info(
            "vllm:lora_requests_info",
            "Adapters in use; the value is the time of the reading.",
            {
                "max_lora": str(self._settings.max_running),
                "running_lora_adapters": ",".join(stats.running_adapters),
                "waiting_lora_adapters": ",".join(stats.waiting_adapters),
            },
            time.time(),
        )
        yield self._counter("vllm:prompt_tokens", "Prompt tokens computed.", stats.prompt_tokens)
        yield self._counter("vllm:generation_tokens", "Output tokens produced.", stats.output_tokens)
        yield self._finished(stats.finished)

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        gauge = GaugeMetricFamily(name, text, labels=["model_name"])
        gauge.add_metric([self._settings.name], value)
        return gauge

    def _info(self, name: str, text: str, labels: dict[str, str], value: float) -> Metric:
        gauge = GaugeMetricFamily(name, text, labels=list(labels))
        gauge.add_metric(list(labels.values()), value)
        return gauge

    def _counter(self, name: str, text: str, value: int) -> Metric:
        counter = CounterMetricFamily(name, text, labels=["model_name"])
        counter.add_metric([self._settings.name], value)
        return counter

    def _finished(self, counts: dict[str, int]) -> Metric:
        counter = CounterMetricFamily(
            "vllm:request_success", "Requests that ended, by why.", labels=["model_name", "finished_reason"]
        )
        for reason, count in counts.items():
            counter.add_metric([self._settings.name, reason], count)
        return counter


def exposition(settings: WorkerSettings, stats: Callable[[], Stats]) -> Callable[[], bytes]:
    """A function that renders the metrics in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(EngineCollector(settings, stats))
    return lambda: generate_latest(registry)
