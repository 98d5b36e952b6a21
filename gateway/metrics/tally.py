"""What requests that are over are counted in: plain numbers, because every request passes here.

A request finds its `Series` by a look-up and adds to it; Prometheus' own objects, which take a lock for each number,
are made when a page is asked for. Tenants have labels of their own only as far as the configuration allows, in the
order of the file; the rest is `other`, and a request without a known key is `none`. So the number of series is bounded
whatever clients send.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Final, final

from gateway.record import Record
from gateway.tenants.directory import TenantDirectory

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Upper bounds of a histogram's buckets; what is above the last one has a bucket more."""


@final
class Histogram:
    """`counts[i]` is of what is at most SECONDS[i] and above SECONDS[i - 1]: 0.005 belongs to the first, 0.0051 to the
    second. Prometheus wants them cumulative; that is added up when it asks."""

    def __init__(self) -> None:
        self.counts: list[int] = [0] * (len(SECONDS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.sum += seconds


@final
class Series:
    """What the requests of one tenant's label in one pool came to. All but `outcomes` is of those that got a turn."""

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self.dispatched = 0
        self.input_tokens = 0
        self.cached_tokens = 0
        self.output_tokens = 0
        self.service = 0.0
        self.queue = Histogram()
        self.ttft = Histogram()
        self.upstream_errors: dict[str, int] = {}
        self.retries = 0
        self.overflows = 0

    def observe(self, record: Record) -> None:
        outcome = record.outcome
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        if record.dispatched:
            self._observe_service(record)
            if outcome != "ok" or record.attempts > 1 or record.overflows:
                self._observe_trouble(record)

    def _observe_service(self, record: Record) -> None:
        self.dispatched += 1
        self.queue.observe(record.queued)
        ttft = record.ttft()
        if ttft is not None:
            self.ttft.observe(ttft)
        self.input_tokens += record.input_tokens
        self.cached_tokens += record.cached_tokens
        self.output_tokens += record.output_tokens
        self.service += record.service

    def _observe_trouble(self, record: Record) -> None:
        outcome = record.outcome
        if outcome.startswith("upstream_"):
            self.upstream_errors[outcome] = self.upstream_errors.get(outcome, 0) + 1
        if record.attempts > 1:
            self.retries += record.attempts - 1
        self.overflows += record.overflows


@final
class Tally:
    """`observe` takes the record of every request that is over."""

    def __init__(self, directory: TenantDirectory, max_tenant_labels: int) -> None:
        self._directory = directory
        self._max_labels = max_tenant_labels
        self._labels: dict[str, str] = {"": "none"}
        self._labelled_revision = -1
        self._series: dict[tuple[str, str], Series] = {}

    @property
    def series(self) -> Mapping[tuple[str, str], Series]:
        """By label of the tenant and name of the pool (empty where the request did not get as far as a pool)."""
        return self._series

    def observe(self, record: Record) -> None:
        key = (self.label(record.tenant), record.pool)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = Series()
        series.observe(record)

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
