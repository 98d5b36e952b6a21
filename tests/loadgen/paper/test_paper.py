"""The paper's experiments: their curves against hand-made records, their sentences against controls, their files."""

from __future__ import annotations

import csv
import operator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fairness import Weighted
from loadgen.errors import LoadgenError
from loadgen.judge.results import Outcome, RequestRecord
from loadgen.paper.curves import (
    accumulated,
    accumulated_difference,
    demand_rates,
    response_times,
    service_rates,
)
from loadgen.paper.evaluation import EXPERIMENTS, reproduce_paper
from loadgen.paper.experiment import Check, Shown
from loadgen.paper.jobs import Cells, Job, Measured, Results, mean_cells, range_cells, run_job
from loadgen.paper.synthetic import figure_4, figure_10
from loadgen.paper.tables import TABLE_5, TABLES
from loadgen.simulator.parallel import in_parallel
from loadgen.workloads.arena import TRACES_VARIABLE

COST = Weighted()


def record(tenant: str, arrival: float, first: float, end: float, n_in: int = 100, n_out: int = 100) -> RequestRecord:
    return RequestRecord(f"{tenant}-1", tenant, n_in, n_out, arrival, Outcome.FINISHED, arrival, first, end)


RECORDS = (
    record("a", 0.0, 10.0, 20.0),  # 300 units over 10 s
    record("b", 0.0, 10.0, 40.0, n_in=0, n_out=300),  # 600 units over 30 s
    replace(record("b", 5.0, 0.0, 0.0), outcome=Outcome.REJECTED, first_token_s=None, finish_s=None),
)


# -- curves ----------------------------------------------------------------------------------------------------


def test_service_accumulates_evenly_from_the_first_token_to_the_end() -> None:
    received = accumulated(RECORDS, COST, np.array([10.0, 15.0, 25.0, 100.0]))
    assert received.tolist() == [[0, 150, 300, 300], [0, 100, 300, 600]]
    assert accumulated_difference(RECORDS, COST, np.array([15.0, 25.0, 100.0])).tolist() == [50, 0, 300]
    assert accumulated_difference(RECORDS, COST, np.array([25.0]), start_s=15.0).tolist() == [50]


def test_rates_are_over_a_window_that_is_cut_off_at_0() -> None:
    assert service_rates(RECORDS, COST, np.array([0.0]))[:, 0] == pytest.approx([300 / 30, 400 / 30])
    assert service_rates(RECORDS, COST, np.array([30.0]))[:, 0] == pytest.approx([300 / 60, 600 / 60])


def test_demand_counts_what_was_rejected_too() -> None:
    assert demand_rates(RECORDS, COST, np.array([30.0]))[:, 0] == pytest.approx([300 / 60, 900 / 60])


def test_response_times_are_of_first_tokens_near_the_moment_and_absent_where_there_is_none() -> None:
    waits = response_times(RECORDS, np.array([0.0, 40.0, 41.0]))
    assert waits[0, :2].tolist() == [10, 10]
    assert np.isnan(waits[:, 2]).all()


# -- sentences -------------------------------------------------------------------------------------------------


def test_a_value_agrees_within_its_margin_or_within_the_range_over_seeds() -> None:
    assert Check("x", 109.0, 100.0, 0.10).agrees
    assert not Check("x", 111.0, 100.0, 0.10).agrees
    assert Check("x", 111.0, 100.0, 0.10, (95.0, 130.0)).agrees
    assert not Check("x", 111.0, 100.0, 0.10, (101.0, 130.0)).agrees
    assert str(Check("x", 111.0, 100.0, 0.10, (95.0, 130.0))) == "x 111 (100, seen 95.0 to 130)"
    assert str(Check("x", 109.0, 100.0, 0.10, (95.0, 130.0))) == "x 109 (100)"


def test_the_sentence_names_what_differs_and_why() -> None:
    checks = [Check("good", 100.0, 100.0, 0.1), Check("bad", 50.0, 100.0, 0.1)]
    shown = Shown("it is so", True, checks, "for a reason")
    assert not shown.agrees
    assert shown.sentence() == (
        "it is so; the finding agrees, and 1 of 2 values do, but not (published in brackets) bad 50.0 (100): "
        "for a reason."
    )
    assert Shown("it is so", True, checks[:1]).sentence().endswith("values (in brackets): good 100 (100).")


def test_a_finding_that_does_not_hold_never_agrees_whatever_its_values() -> None:
    shown = Shown("it is not so", False, [Check("good", 1.0, 1.0, 0.1)])
    assert not shown.agrees
    assert "does not show what was published" in shown.sentence()


def made_results(averages: dict[str, float]) -> Results:
    """Table 5 with these average differences, the rest as published."""
    table = next(table for table in TABLES if table.number == 5)
    cells = {name: Cells(row.diff_max, averages[name], row.diff_var, row.throughput) for name, row in TABLE_5.items()}
    return Results({}, {table.job(name): [Measured(cell, cell)] for name, cell in cells.items()}, 1)


def test_a_table_as_published_agrees_and_one_in_another_order_does_not() -> None:
    table = next(table for table in TABLES if table.number == 5)
    published = {name: row.diff_avg for name, row in TABLE_5.items()}
    assert table.show(made_results(published)).agrees
    worse = table.show(made_results({**published, "vtc (oracle)": 500.0}))
    assert not worse.holds
    assert "does NOT fall" in worse.sentence()
    slower = table.show(made_results({**published, "vtc": 200.0}))
    assert slower.holds
    assert "vtc average 200 (104)" in slower.sentence()


def test_only_vtc_schedules_by_the_profiled_cost() -> None:
    by_profile, plain = (next(table for table in TABLES if table.number == number) for number in (3, 2))
    assert by_profile.job("lcf") == plain.job("lcf")
    assert by_profile.job("vtc (oracle)").cost.startswith("profiled:")


def test_cells_over_seeds() -> None:
    each = [Cells(1, 2, 3, 4), Cells(3, 2, 1, 0, 0.5)]
    assert mean_cells(each) == Cells(2, 2, 2, 2, 0.25)
    assert range_cells(each) == (Cells(1, 2, 1, 0), Cells(3, 2, 3, 4, 0.5))


# -- controls: a figure must not agree when another policy ran ------------------------------------------------


def test_figure_10_tells_vtc_from_lcf() -> None:
    vtc, lcf = Job("dist-shift"), Job("dist-shift", "lcf")
    runs = {vtc: run_job(vtc), lcf: run_job(lcf)}
    assert figure_10(Results(runs, {}, 0)).agrees
    assert not figure_10(Results({vtc: runs[lcf], lcf: runs[vtc]}, {}, 0)).holds


def test_figure_4_tells_vtc_from_fcfs() -> None:
    job = Job("proportional")
    assert figure_4(Results({job: run_job(job)}, {}, 0)).agrees
    assert not figure_4(Results({job: run_job(replace(job, policy="fcfs"))}, {}, 0)).holds


# -- the whole -------------------------------------------------------------------------------------------------


def test_every_figure_and_table_of_the_evaluation_is_there_once() -> None:
    figures = [f"figure-{number:02}" for number in (*range(3, 17), 19)]
    tables = [f"table-{number:02}" for number in range(2, 7)]
    assert [experiment.name for experiment in EXPERIMENTS] == figures + tables


def test_work_in_parallel_comes_back_with_its_item() -> None:
    assert dict(in_parallel(operator.neg, [1, 2, 3])) == {1: -1, 2: -2, 3: -3}


def test_the_page_its_data_and_its_pictures(tmp_path: Path) -> None:
    told: list[float] = []
    page = reproduce_paper(
        tmp_path, progress=lambda _what, part: told.append(part), seeds=1, only=["figure-04", "table-05"]
    )
    assert page == tmp_path / "index.html"
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len(told) > 4
    rows = list(csv.DictReader((tmp_path / "figure-04.csv").read_text(encoding="utf-8").splitlines()))
    assert {row["line"] for row in rows} == {"client-1", "client-2", "client-3"}
    assert {row["panel"] for row in rows} == {"service under vtc", "response time under vtc"}
    assert len((tmp_path / "table-05.csv").read_text(encoding="utf-8").splitlines()) == 1 + len(TABLE_5)
    for name in ("figure-04.png", "figure-04-dark.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    html = page.read_text(encoding="utf-8")
    assert "Figure 4: work conservation" in html
    assert 'href="table-05.csv"' in html
    assert "vtc (±50 %)" in html


def test_the_page_says_when_the_trace_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRACES_VARIABLE, str(tmp_path))
    page = reproduce_paper(tmp_path / "out", seeds=1, only=["figure-04"])
    assert "The trace of the Chatbot Arena is not here" in page.read_text(encoding="utf-8")


def test_what_cannot_be_run_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(LoadgenError, match="'figure-17' is unknown; expected one of figure-03"):
        reproduce_paper(tmp_path, only=["figure-17"])
    with pytest.raises(LoadgenError, match="seeds 0: expected at least 1"):
        reproduce_paper(tmp_path, seeds=0)
    assert not list(tmp_path.iterdir())
