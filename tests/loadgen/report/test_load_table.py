"""The table and JSON of a live run, on exchanges made by hand."""

from __future__ import annotations

import io
from array import array

from rich.console import Console

from loadgen.client.record import Ending, Exchange, LoadRecord
from loadgen.report.load_table import load_to_json, print_load


def exchange(tenant: str, ttft: float, tpot: float, queue: float) -> Exchange:
    times, counts = array("d", [5 + ttft, 5 + ttft + 4 * tpot]), array("l", [1, 5])
    return Exchange(tenant, "m", 5.0, 8, 5, 5.0, 99.0, queue, 200, "", Ending.FINISHED, 7, times, counts)


def refused(tenant: str, code: str) -> Exchange:
    return Exchange(tenant, "m", 5.0, 8, 5, 5.0, 6.0, status=429, code=code, ending=Ending.REJECTED)


RECORD = LoadRecord(
    [*(exchange("a", 0.01 * k, 0.5, 0.25) for k in range(1, 101)), refused("[b]", "rate_limit"), refused("a", "x")],
    120.0,
    0.0123,
)


def test_the_json_by_hand() -> None:
    data = load_to_json(RECORD)
    assert (data["duration_s"], data["lateness_s"]) == (120.0, 0.0123)
    assert data["reasons"] == {"429 rate_limit": 1, "429 x": 1}
    tenants = data["tenants"]
    assert isinstance(tenants, dict)
    a, b = tenants["a"], tenants["[b]"]
    assert a["requests"] == {"finished": 100, "rejected": 1, "aborted": 0, "failed": 0}
    assert (a["input_tokens"], a["output_tokens"]) == (700, 500)
    assert {name: round(value, 6) for name, value in a["ttft_s"].items()} == {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    assert {round(value, 6) for value in a["tpot_s"].values()} == {0.5}
    assert set(a["queue_s"].values()) == {0.25}
    assert b["ttft_s"] == {"p50": None, "p90": None, "p99": None}


def test_the_table_fits_a_terminal() -> None:
    console = Console(file=io.StringIO(), width=100)
    print_load(RECORD, console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "…" not in text
    row = next(line for line in text.splitlines() if line.strip().startswith("a "))
    assert " ".join(row.split()) == "a 100 1 0 0 0.50 / 0.99 0.50 / 0.50 0.25 / 0.25"
    assert next(line.split() for line in text.splitlines() if "[b]" in line)[-3:] == ["–", "/", "–"]
    assert "not finished, 429 rate_limit: 1" in text
    assert "at most 12 ms after they were due" in text
