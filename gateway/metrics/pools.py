"""What Prometheus sees of the pools."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.pools.port import Pool


class PoolCollector(Collector):
    """Reads the pools when Prometheus asks, so that the hot path keeps no gauges."""

    def __init__(self, pools: Mapping[str, Pool], label: Callable[[str], str]) -> None:
        self._pools = pools
        self._label = label

    def collect(self) -> Iterator[Metric]:
        waiting = _gauge("queue_requests", "Requests that wait", "pool", "tenant")
        running = _gauge("running_requests", "Requests that run", "pool", "tenant")
        gap = _gauge("counter_gap", "Largest difference of virtual counters of tenants that wait", "pool")
        bound = _gauge("counter_bound", "What the counter gap is promised to stay under", "pool")
        help_text = "Times that the counters of two waiting tenants came further apart than the bound"
        crossings = CounterMetricFamily("fairgate_bound_crossings", help_text, labels=("pool",))
        for name, pool in self._pools.items():
            snapshot, _ = pool.snapshot()
            crossings.add_metric([name], pool.crossings())
            gap.add_metric([name], snapshot.gap)
            bound.add_metric([name], snapshot.bound)
            self._add(waiting, name, {tenant: state.waiting for tenant, state in snapshot.tenants.items()})
            self._add(running, name, {tenant: state.running for tenant, state in snapshot.tenants.items()})
        yield from (waiting, running, gap, bound, crossings)
        yield from self._workers()
        yield from self._store()

    def _add(self, family: GaugeMetricFamily, pool: str, counts: Mapping[str, int]) -> None:
        totals: Counter[str] = Counter()
        for tenant, count in counts.items():
            totals[self._label(tenant)] += count
        for label, total in totals.items():
            family.add_metric([pool, label], total)

    def _store(self) -> Iterator[Metric]:
        up = _gauge("store_up", "1 while the queue is shared, 0 while the replica is on its own", "pool")
        replicas = _gauge("replicas", "Replicas that share the queue, as last heard", "pool")
        stale = _gauge("config_stale", "1 when another configuration than this gateway's file is in force", "pool")
        for name, pool in self._pools.items():
            standing = pool.standing()
            if standing.mode != "own":
                up.add_metric([name], standing.mode == "shared")
                replicas.add_metric([name], standing.replicas)
                stale.add_metric([name], bool(standing.stale))
        yield from (up, replicas, stale)

    def _workers(self) -> Iterator[Metric]:
        healthy = _gauge("worker_healthy", "1 when requests go to the worker", "pool", "worker")
        slots = _gauge("worker_slots", "Running slots the gateway uses now", "pool", "worker")
        running = _gauge("worker_running_requests", "Slots in use", "pool", "worker")
        tokens = _gauge("worker_kv_tokens", "KV tokens of the worker", "pool", "worker")
        reserved = _gauge("worker_reserved_kv_tokens", "KV tokens reserved by requests in flight", "pool", "worker")
        for name, pool in self._pools.items():
            for worker in pool.snapshot()[1]:
                labels = [name, worker.id]
                healthy.add_metric(labels, worker.healthy)
                slots.add_metric(labels, worker.slots)
                running.add_metric(labels, worker.running)
                tokens.add_metric(labels, worker.tokens)
                reserved.add_metric(labels, worker.reserved)
        yield from (healthy, slots, running, tokens, reserved)


def _gauge(name: str, help_text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"fairgate_{name}", help_text, labels=labels)
