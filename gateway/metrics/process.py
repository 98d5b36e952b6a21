"""What Prometheus sees of the process itself: who is connected, what memory waits, what was not logged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.tenants.held_bytes import HeldBytes


class Connections(Protocol):
    """Those of clients (see gateway/http/census.py)."""

    turned_away: int
    evicted: int

    def __len__(self) -> int: ...


class ProcessCollector(Collector):
    """`dropped`: log lines that standard error did not take in time."""

    def __init__(self, connections: Connections, memory: HeldBytes, dropped: Callable[[], int]) -> None:
        self._connections = connections
        self._memory = memory
        self._dropped = dropped

    def collect(self) -> Iterator[Metric]:
        connections = self._connections
        yield GaugeMetricFamily("fairgate_connections", "Connections of clients", value=len(connections))
        yield CounterMetricFamily(
            "fairgate_connections_turned_away",
            "Connections refused because all places, or all of their address, were taken",
            value=connections.turned_away,
        )
        yield CounterMetricFamily(
            "fairgate_connections_evicted",
            "Connections that said nothing and were closed to make room for others",
            value=connections.evicted,
        )
        yield GaugeMetricFamily(
            "fairgate_queued_bytes", "Bytes of bodies that are read or wait", value=self._memory.total
        )
        yield CounterMetricFamily(
            "fairgate_log_lines_dropped",
            "Log lines dropped because standard error did not take them in time",
            value=self._dropped(),
        )
