"""Prometheus metrics, `fairgate_*`, in base units: everything is made from plain numbers when a page is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.metrics.pools import PoolCollector
from gateway.metrics.requests import RequestCollector
from gateway.metrics.tally import Tally
from gateway.pools.port import Pool

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """One registry per gateway, which takes further collectors. `dropped`: log lines that were not written."""

    def __init__(self, tally: Tally, pools: Mapping[str, Pool], dropped: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(RequestCollector(tally))
        self.registry.register(PoolCollector(pools, tally.label))
        self.registry.register(_LogCollector(dropped))

    def page(self) -> bytes:
        """The exposition of everything, in Prometheus' text format."""
        return generate_latest(self.registry)


class _LogCollector(Collector):
    def __init__(self, dropped: Callable[[], int]) -> None:
        self._dropped = dropped

    def collect(self) -> Iterator[Metric]:
        help_text = "Log lines dropped because standard error did not take them in time"
        yield CounterMetricFamily("fairgate_log_lines_dropped", help_text, value=self._dropped())
