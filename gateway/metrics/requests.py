"""What was tallied of requests, as families of Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.metrics.tally import SECONDS, Histogram, Series, Tally

_BOUNDS = [*map(str, SECONDS), "+Inf"]


class RequestCollector(Collector):
    """Reads the tally when Prometheus asks."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def collect(self) -> Iterator[Metric]:
        yield self._requests()
        yield self._served("input_tokens", "Input tokens the engines counted", lambda series: series.input_tokens)
        yield self._served(
            "cached_input_tokens", "Input tokens found in prefix caches", lambda series: series.cached_tokens
        )
        yield self._served("output_tokens", "Output tokens", lambda series: series.output_tokens)
        yield self._served("service", "Service received, in units of the cost function", lambda series: series.service)
        yield self._upstream_errors()
        yield self._by_pool("retries", "Requests sent to a worker again", lambda series: series.retries)
        yield self._by_pool(
            "overflows", "Requests put back because an engine was full", lambda series: series.overflows
        )
        yield self._seconds("queue_seconds", "Time in the queue of requests that got a turn", lambda s: s.queue)
        yield self._seconds(
            "time_to_first_token_seconds", "From arrival to the first event of a stream", lambda s: s.ttft
        )

    def _dispatched(self) -> Iterable[tuple[list[str], Series]]:
        """Those with requests that got a turn; of the others nothing was served, and a zero would say less."""
        return ((list(key), series) for key, series in self._tally.series.items() if series.dispatched)

    def _requests(self) -> Metric:
        family = _counter("requests", "Requests by how they ended", "tenant", "pool", "outcome")
        for key, series in self._tally.series.items():
            for outcome, count in series.outcomes.items():
                family.add_metric([*key, outcome], count)
        return family

    def _served(self, name: str, help_text: str, value: Callable[[Series], float]) -> Metric:
        family = _counter(name, help_text, "tenant", "pool")
        for key, series in self._dispatched():
            family.add_metric(key, value(series))
        return family

    def _upstream_errors(self) -> Metric:
        family = _counter("upstream_errors", "Requests an engine failed", "pool", "outcome")
        totals: Counter[tuple[str, str]] = Counter()
        for (_, pool), series in self._dispatched():
            for outcome, count in series.upstream_errors.items():
                totals[pool, outcome] += count
        for (pool, outcome), total in totals.items():
            family.add_metric([pool, outcome], total)
        return family

    def _by_pool(self, name: str, help_text: str, value: Callable[[Series], int]) -> Metric:
        """Of pools in which it has happened."""
        family = _counter(name, help_text, "pool")
        totals: Counter[str] = Counter()
        for (_, pool), series in self._dispatched():
            totals[pool] += value(series)
        for pool, total in totals.items():
            if total:
                family.add_metric([pool], total)
        return family

    def _seconds(self, name: str, help_text: str, of: Callable[[Series], Histogram]) -> Metric:
        family = HistogramMetricFamily(f"fairgate_{name}", help_text, labels=("tenant", "pool"))
        for key, series in self._dispatched():
            histogram = of(series)
            family.add_metric(key, list(zip(_BOUNDS, accumulate(histogram.counts), strict=True)), histogram.sum)
        return family


def _counter(name: str, help_text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"fairgate_{name}", help_text, labels=labels)
