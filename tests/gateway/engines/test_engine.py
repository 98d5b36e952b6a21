"""What is found out about a worker while it is used."""

from __future__ import annotations

from gateway.engines.dialect import Dialect
from gateway.engines.engine import LEAST_USAGE, Engine
from gateway.engines.plain import PLAIN
from gateway.engines.vllm import VLLM
from gateway.errors import UpstreamError

NO = b'{"error":{"message":"stream_options.continuous_usage_stats: extra inputs are not permitted"}}'


def test_its_dialect_stands_when_its_metrics_cannot_be_read_for_once() -> None:
    engine = Engine()
    assert engine.dialect is PLAIN
    engine.hear("vllm:num_requests_running 0\n")
    engine.hear("")
    assert engine.dialect is VLLM


def test_usage_options_that_are_refused_are_not_asked_for_again() -> None:
    engine = Engine()
    first = second = engine.usage_options()
    assert first == {"include_usage": True, "continuous_usage_stats": True}
    assert engine.may_mind_usage(first, 400, NO)
    assert engine.usage_options() == first, "that may have been the client's own words"
    engine.minds_usage()
    assert engine.usage_options() == LEAST_USAGE == {"include_usage": True}
    assert engine.may_mind_usage(second, 422, NO), "another request that was under way must be repeated too"
    assert not engine.may_mind_usage(LEAST_USAGE, 400, NO), "it would be repeated for ever"


def test_other_refusals_say_nothing_of_usage() -> None:
    engine = Engine()
    asked = engine.usage_options()
    for status, body in ((400, b"temperature must be >= 0"), (500, NO), (404, NO)):
        assert not engine.may_mind_usage(asked, status, body)
    assert engine.usage_options() == asked


def test_what_its_dialect_says_is_what_counts() -> None:
    engine = Engine()
    assert "/health" in engine.health_paths()
    engine.dialect = Dialect("other", full=frozenset({529}), continuous_usage=False, health_path="/ping")
    assert engine.health_paths() == ("/ping",)
    assert engine.usage_options() == {"include_usage": True}
    for status, kind in ((529, "overflow"), (503, "status")):
        error = engine.dialect.not_taken(status, b"")
        assert isinstance(error, UpstreamError)
        assert error.kind == kind
