"""One line for one event, printable and bounded, whatever a client or an engine sent; and all that it says is true."""

from __future__ import annotations

import json
import logging
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.log.lines import MOST_MESSAGE, MOST_TEXT, MOST_TRACEBACK, LineFormatter, access_line
from gateway.record import Record

anything = st.text(st.characters(codec=None, exclude_categories=()))  # lone surrogates too
NASTY = 'a\n{"outcome":"ok"}\r\x1b[2J\x7f\x9b\u2028\u202e\ud800"\\'


@given(anything, anything)
@example(NASTY, NASTY)
def test_an_access_line_is_one_line_of_printable_ascii_that_says_what_was_sent(model: str, worker: str) -> None:
    record = Record("id", "/v1/chat/completions", 10.0)
    record.model, record.worker = model, worker
    line = access_line(record).decode("ascii")
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    fields = json.loads(line)
    assert fields["model"] == (model if len(model) <= MOST_TEXT else model[:MOST_TEXT] + "...")
    assert fields["worker"] == (worker if len(worker) <= MOST_TEXT else worker[:MOST_TEXT] + "...")


@pytest.mark.parametrize("filler", ["x", "\n", "\U0001f600", "\ud800"])
def test_an_access_line_is_bounded(filler: str) -> None:
    long = filler * 1_000_000
    record = Record(long, long, 0.0)
    record.tenant = record.pool = record.model = record.outcome = record.worker = long
    line = access_line(record)
    assert len(line) < 7 * 12 * (MOST_TEXT + 3) + 500  # at worst each character is two escapes of six
    assert json.loads(line)["model"] == filler * MOST_TEXT + "..."


@given(st.floats(0, 1e5), st.booleans(), st.none() | st.floats(0, 1e5), st.floats(0, 1e5), st.integers(0, 10**20))
def test_numbers_are_those_of_the_record(
    queued: float, stream: bool, first_byte: float | None, ended: float, output_tokens: int
) -> None:
    record = Record("id", "/", 0.0)
    record.stream = stream
    record.queued, record.first_byte, record.ended, record.output_tokens = queued, first_byte, ended, output_tokens
    fields = json.loads(access_line(record))
    assert fields["queue_ms"] == pytest.approx(queued * 1000, abs=0.00051)
    assert fields["duration_ms"] == pytest.approx(ended * 1000, abs=0.00051)
    ttft = first_byte if stream else None
    assert fields["ttft_ms"] == (None if ttft is None else pytest.approx(ttft * 1000, abs=0.00051))
    assert fields["output_tokens"] == output_tokens


def test_the_access_log_names_what_it_always_did() -> None:
    fields = json.loads(access_line(Record("id", "/", 0.0)))
    assert list(fields) == [
        "request_id", "tenant", "pool", "model", "path", "stream", "status", "outcome", "worker", "attempts",
        "overflows", "queue_ms", "ttft_ms", "duration_ms", "input_tokens", "cached_tokens", "output_tokens",
    ]  # fmt: skip


def formatted(message: str, *arguments: object, error: bool = False) -> str:
    exc_info = sys.exc_info() if error else None
    record = logging.LogRecord("gateway", logging.INFO, __file__, 1, message, arguments, exc_info)
    return LineFormatter().format(record)


@given(anything)
@example(NASTY)
def test_a_message_is_one_printable_line(text: str) -> None:
    line = formatted("request %s: failed", text)
    assert line.isprintable()
    assert line.startswith("request ")
    line.encode()


def test_a_plain_message_stays_as_it_is() -> None:
    assert formatted("worker %s, 日本 \\n", "ä") == "worker ä, 日本 \\n"


def test_a_message_is_bounded() -> None:
    assert formatted("%s", "x" * 10**6) == "x" * MOST_MESSAGE + "..."


def test_an_error_cannot_forge_a_line_of_its_own() -> None:
    try:
        raise ValueError("sent\nworker w of pool p is away\x1b[2J")
    except ValueError:
        first, *rest = formatted("request %s: internal error", "id", error=True).split("\n")
    assert first == "request id: internal error"
    assert rest[-1] == "    worker w of pool p is away\\x1b[2J"
    assert all(line.startswith("    ") and line.isprintable() for line in rest)
    assert "ValueError: sent" in rest[-2]


def test_of_a_long_traceback_the_end_is_kept() -> None:
    try:
        raise ValueError("x" * 10**6 + " the end")
    except ValueError:
        text = formatted("failed", error=True)
    assert text.endswith(" the end")
    assert len(text) < MOST_TRACEBACK + 100
