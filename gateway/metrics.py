"""Prometheus metrics, `fairgate_*`, in base units.

Tenants have labels of their own only as far as the configuration allows, in the order of the file; the rest is
`other`, and a request without a known key is `none`. So the number of series is bounded whatever clients send.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.pools.port import Pool
from gateway.record import Record
from gateway.tenants.directory import TenantDirectory

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class _Served(NamedTuple):
    """The metrics of one tenant in one pool, looked up once."""

    input: Counter
    cached: Counter
    output: Counter
    service: Counter
    queue: Histogram
    ttft: Histogram

    def observe(self, record: Record) -> None:
        self.queue.observe(record.queued)
        if (ttft := record.ttft()) is not None:
            self.ttft.observe(ttft)
        self.input.inc(record.input_tokens)
        self.cached.inc(record.cached_tokens)
        self.output.inc(record.output_tokens)
        self.service.inc(record.service)


class Metrics:
    """One registry per gateway. `observe` takes the record of every request that is over."""

    def __init__(self, pools: Mapping[str, Pool], directory: TenantDirectory, max_tenant_labels: int) -> None:
        self.registry = CollectorRegistry()
        self._directory = directory
        self._max_labels = max_tenant_labels
        self._labels = {"": "none"}
        self._labelled_revision = -1
        self._requests = self._counter("requests", "Requests by how they ended", "tenant", "pool", "outcome")
        self._input = self._counter("input_tokens", "Input tokens the engines counted", "tenant", "pool")
        self._cached = self._counter("cached_input_tokens", "Input tokens found in prefix caches", "tenant", "pool")
        self._output = self._counter("output_tokens", "Output tokens", "tenant", "pool")
        self._service = self._counter("service", "Service received, in units of the cost function", "tenant", "pool")
        self._upstream_errors = self._counter("upstream_errors", "Requests an engine failed", "pool", "outcome")
        self._retries = self._counter("retries", "Requests sent to a worker again", "pool")
        self._overflows = self._counter("overflows", "Requests put back because an engine was full", "pool")
        self._queue = self._histogram("queue_seconds", "Time in the queue of requests that got a turn")
        self._ttft = self._histogram("time_to_first_token_seconds", "From arrival to the first event of the answer")
        self._served: dict[tuple[str, str], _Served] = {}
        self.registry.register(PoolCollector(pools, self.label))

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"fairgate_{name}", help_text, labels, registry=self.registry)

    def _histogram(self, name: str, help_text: str) -> Histogram:
        return Histogram(f"fairgate_{name}", help_text, ("tenant", "pool"), registry=self.registry, buckets=_SECONDS)

    def label(self, tenant: str) -> str:
        if self._labelled_revision != self._directory.revision:
            self._label_more()
        return self._labels.get(tenant, "other")

    def _label_more(self) -> None:
        """Name tenants for as long as there are names left; one that has gone keeps its own, as its series do."""
        for tenant in self._directory:
            if len(self._labels) > self._max_labels:  # one of them is `none`
                break
            self._labels.setdefault(tenant.id, tenant.id)
        self._labelled_revision = self._directory.revision

    def observe(self, record: Record) -> None:
        tenant, pool = self.label(record.tenant), record.pool
        self._requests.labels(tenant, pool, record.outcome).inc()
        if not record.dispatched:
            return
        if (served := self._served.get((tenant, pool))) is None:
            served = self._served[tenant, pool] = self._served_by(tenant, pool)
        served.observe(record)
        self._observe_trouble(record)

    def _served_by(self, tenant: str, pool: str) -> _Served:
        return _Served(
            input=self._input.labels(tenant, pool),
            cached=self._cached.labels(tenant, pool),
            output=self._output.labels(tenant, pool),
            service=self._service.labels(tenant, pool),
            queue=self._queue.labels(tenant, pool),
            ttft=self._ttft.labels(tenant, pool),
        )

    def _observe_trouble(self, record: Record) -> None:
        if record.outcome.startswith("upstream_"):
            self._upstream_errors.labels(record.pool, record.outcome).inc()
        if record.attempts > 1:
            self._retries.labels(record.pool).inc(record.attempts - 1)
        if record.overflows:
            self._overflows.labels(record.pool).inc(record.overflows)

    def page(self) -> bytes:
        """The exposition of everything, in Prometheus' text format."""
        return generate_latest(_WithoutCreated(self.registry))


class _WithoutCreated(Collector):
    """A registry less the `_created` samples, which double the series of every counter and tell nobody anything."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


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
        totals: Counts[str] = Counts()
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
