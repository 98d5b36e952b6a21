"""Counting in plain numbers shows what Prometheus' own counters and histograms would have shown."""

from __future__ import annotations

from hashlib import sha256
from math import inf, nextafter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gateway.config.schema import TenantConfig
from gateway.metrics.page import Metrics
from gateway.metrics.tally import SECONDS, Tally
from gateway.record import Record
from gateway.tenants.directory import TenantDirectory

OUTCOMES = ("ok", "client_closed", "queue_full", "upstream_closed", "upstream_bad_answer")
EDGES = [edge for bound in SECONDS for edge in (bound, nextafter(bound, 0), nextafter(bound, inf))]
seconds = st.one_of(st.sampled_from(EDGES), st.floats(0, 1000))
tokens = st.integers(0, 10**6)


class Eager:
    """The oracle: each request moves objects of prometheus-client, by the labels it is given."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self.counter("requests", "Requests by how they ended", "tenant", "pool", "outcome")
        self.input = self.counter("input_tokens", "Input tokens the engines counted", "tenant", "pool")
        self.cached = self.counter("cached_input_tokens", "Input tokens found in prefix caches", "tenant", "pool")
        self.output = self.counter("output_tokens", "Output tokens", "tenant", "pool")
        self.service = self.counter("service", "Service received, in units of the cost function", "tenant", "pool")
        self.errors = self.counter("upstream_errors", "Requests an engine failed", "pool", "outcome")
        self.retries = self.counter("retries", "Requests sent to a worker again", "pool")
        self.overflows = self.counter("overflows", "Requests put back because an engine was full", "pool")
        self.queue = self.histogram("queue_seconds", "Time in the queue of requests that got a turn")
        self.ttft = self.histogram("time_to_first_token_seconds", "From arrival to the first event of a stream")

    def counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"fairgate_{name}", help_text, labels, registry=self.registry)

    def histogram(self, name: str, help_text: str) -> Histogram:
        return Histogram(f"fairgate_{name}", help_text, ("tenant", "pool"), registry=self.registry, buckets=SECONDS)

    def observe(self, record: Record, tenant: str) -> None:
        key = (tenant, record.pool)
        self.requests.labels(*key, record.outcome).inc()
        if not record.dispatched:
            return
        self.queue.labels(*key).observe(record.queued)
        ttft = self.ttft.labels(*key)
        if record.stream and record.first_byte is not None:
            ttft.observe(record.first_byte - record.started)
        self.input.labels(*key).inc(record.input_tokens)
        self.cached.labels(*key).inc(record.cached_tokens)
        self.output.labels(*key).inc(record.output_tokens)
        self.service.labels(*key).inc(record.service)
        self.observe_trouble(record)

    def observe_trouble(self, record: Record) -> None:
        if record.outcome.startswith("upstream_"):
            self.errors.labels(record.pool, record.outcome).inc()
        if record.attempts > 1:
            self.retries.labels(record.pool).inc(record.attempts - 1)
        if record.overflows:
            self.overflows.labels(record.pool).inc(record.overflows)


@st.composite
def records(draw: st.DrawFn) -> Record:
    record = Record("id", "/v1/chat/completions", draw(st.floats(0, 100)))
    record.tenant = draw(st.sampled_from(("", "a", "b", "c")))
    record.pool = draw(st.sampled_from(("", "main", 'a "quoted"\\\npool')))
    record.outcome = draw(st.sampled_from(OUTCOMES))
    record.dispatched, record.stream = draw(st.booleans()), draw(st.booleans())
    record.queued = draw(seconds)
    record.first_byte = draw(st.none() | seconds.map(lambda passed: record.started + passed))
    record.attempts, record.overflows = draw(st.integers(0, 4)), draw(st.integers(0, 3))
    record.input_tokens, record.cached_tokens, record.output_tokens = draw(tokens), draw(tokens), draw(tokens)
    record.service = draw(st.floats(0, 1e6))
    return record


def exposition(page: bytes) -> list[tuple[str, str, str, list[tuple[str, tuple[tuple[str, str], ...], float]]]]:
    """Families in their order, the samples of each sorted: their order says nothing."""
    return [
        (
            family.name,
            family.type,
            family.documentation,
            sorted((s.name, tuple(sorted(s.labels.items())), s.value) for s in family.samples),
        )
        for family in text_string_to_metric_families(page.decode())
        if not family.name.endswith("_created")
    ]


def tallied(records: list[Record], tenants: str = "abc") -> bytes:
    digests = {name: sha256(name.encode()).hexdigest() for name in tenants}
    directory = TenantDirectory([TenantConfig(id=name, keys_sha256=[digest]) for name, digest in digests.items()])
    tally = Tally(directory, max_tenant_labels=2)
    for record in records:
        tally.observe(record)
    return Metrics(tally, {}).page()


def of_requests(page: bytes) -> list[tuple[str, ...]]:
    eager = [family[0] for family in exposition(generate_latest(Eager().registry))]
    return [family for family in exposition(page) if family[0] in eager]


@given(st.lists(records(), max_size=30))
def test_the_page_is_that_of_prometheus_own_objects(many: list[Record]) -> None:
    eager = Eager()
    for record in many:
        eager.observe(record, {"": "none", "a": "a", "b": "b", "c": "other"}[record.tenant])
    assert of_requests(tallied(many)) == exposition(generate_latest(eager.registry))


@pytest.mark.parametrize("field", ["input_tokens", "overflows", "queued", "service"])
def test_the_oracle_sees_a_difference(field: str) -> None:
    """A control: a request of which one number was counted otherwise must not look the same."""
    eager, record = Eager(), Record("id", "/", 0.0)
    record.tenant, record.pool, record.outcome, record.dispatched = "a", "main", "ok", True
    eager.observe(record, "a")
    setattr(record, field, 1)
    assert of_requests(tallied([record])) != exposition(generate_latest(eager.registry))
