"""Prometheus metrics, `fairgate_*`, in base units: everything is made from plain numbers when a page is asked for."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, generate_latest

from gateway.metrics.pools import PoolCollector
from gateway.metrics.requests import RequestCollector
from gateway.metrics.tally import Tally
from gateway.pools.port import Pool

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """One registry per gateway, which takes further collectors."""

    def __init__(self, tally: Tally, pools: Mapping[str, Pool]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(RequestCollector(tally))
        self.registry.register(PoolCollector(pools, tally.label))

    def page(self) -> bytes:
        """The exposition of everything, in Prometheus' text format."""
        return generate_latest(self.registry)
