"""What Prometheus sees of a process, besides requests and pools."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from gateway.metrics.process import ProcessCollector
from gateway.tenants.held_bytes import HeldBytes


class Door:
    turned_away = 3
    evicted = 2

    def __len__(self) -> int:
        return 5


def test_connections_waiting_bytes_and_dropped_lines_are_on_the_page() -> None:
    memory = HeldBytes(100, 100)
    memory.hold("a", 60)
    registry = CollectorRegistry()
    registry.register(ProcessCollector(Door(), memory, lambda: 7))
    page = generate_latest(registry).decode()
    samples = dict(line.split(" ") for line in page.splitlines() if not line.startswith("#"))
    assert samples == {
        "fairgate_connections": "5.0",
        "fairgate_connections_turned_away_total": "3.0",
        "fairgate_connections_evicted_total": "2.0",
        "fairgate_queued_bytes": "60.0",
        "fairgate_log_lines_dropped_total": "7.0",
    }
