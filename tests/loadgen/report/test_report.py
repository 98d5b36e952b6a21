"""The report says what the results say: in its tables, its sentences and its pictures."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from rich.console import Console

from fairness import Weighted
from loadgen.judge.metrics import ServiceEvents, summarise
from loadgen.judge.results import Comparison, Outcome, RequestRecord, Run
from loadgen.report.findings import about_gap, about_response, about_service, about_throughput, headline
from loadgen.report.markdown import to_html
from loadgen.report.page import TITLE, page, write_report
from loadgen.report.plots import draw_gap, draw_response, draw_service
from loadgen.report.style import LIGHT, LINES_SHOWN
from loadgen.report.terminal import print_comparison
from loadgen.simulator.suite import Case, compare_suite

VOID = {"meta", "img", "source", "br", "hr", "link"}


def made_run(
    policy: str,
    waits: Mapping[str, float],
    *,
    rejected: int = 0,
    requests: int = 40,
    reason: str = "rate_limit",
) -> Run:
    """Each tenant sends one request a second, of 10 and 20 tokens, and gets its first token after `waits` seconds
    and the rest a second later; the first `rejected` requests of the first tenant are turned away."""
    log, records = ServiceEvents(), []
    for tenant, wait in waits.items():
        for k in range(requests):
            name = f"{tenant}-{k}"
            if tenant == next(iter(waits)) and k < rejected:
                records.append(RequestRecord(name, tenant, 10, 20, k, Outcome.REJECTED, reason=reason))
                continue
            first, end = k + wait, k + wait + 1
            records.append(RequestRecord(name, tenant, 10, 20, k, Outcome.FINISHED, first, first, end))
            log.add(first, tenant, 12.0, 11)
            log.add(end, tenant, 38.0, 19)
    return summarise(policy, records, log, Weighted(), {})


def made(workload: str = "made", bound: float = 1000.0, **policies: Run) -> Comparison:
    runs = tuple(policies.values()) or (
        made_run("vtc", {"heavy": 9.0, "light": 0.5}),
        made_run("fcfs", {"heavy": 4.0, "light": 4.0}),
        made_run("rpm:9", {"heavy": 0.2, "light": 0.2}, rejected=31),
    )
    return Comparison(workload, 3, bound, runs, {}, {"engine": "made up"})


def many_tenants(policy: str) -> Run:
    return made_run(policy, {f"tenant-{k:02}": 0.1 * k + 0.1 for k in range(27)}, requests=5)


class Page(HTMLParser):
    """Checks that tags nest, and collects tables, pictures and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.images: list[dict[str, str]] = []
        self.sources: list[str] = []
        self.seen: set[str] = set()
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.seen.add(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "img":
            self.images.append(values)
        elif tag == "source":
            self.sources.append(values["srcset"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data


def read(folder: Path) -> Page:
    return Page((folder / "index.html").read_text(encoding="utf-8"))


def shows(text: str, value: float | None) -> bool:
    """Whether a table's text is this value, to the precision in which it is printed."""
    if value is None:
        return text == "–"
    found = re.search(r"[\d,]+(\.\d+)?", text)
    if found is None:
        return False
    digits = len(found[1] or ".") - 1
    printed = float(found[0].replace(",", "")) / (100 if "%" in text else 1)
    return abs(printed - value) <= 0.500001 * 10**-digits / (100 if "%" in text else 1)


FIGURES_IN_JSON = {
    "largest service gap": ("service_gap_max",),
    "service difference, average": ("service_difference", "avg"),
    "service difference, max": ("service_difference", "max"),
    "throughput (tokens/s)": ("throughput_tokens_per_s",),
    "requests finished": ("requests", "finished"),
    "requests rejected": ("requests", "rejected"),
    "requests aborted": ("requests", "aborted"),
    "TTFT p50 (s)": ("ttft_s", "p50"),
    "TTFT p99 (s)": ("ttft_s", "p99"),
}


def find(data: object, path: Sequence[str]) -> float | None:
    for name in path:
        data = data[name]  # type: ignore[index]
    return data  # type: ignore[return-value]


def test_the_control_of_the_number_check() -> None:
    assert shows("14,268", 14268.4)
    assert not shows("14,268", 14269)
    assert shows("✗ 3.9 times", 3.87)
    assert not shows("36 %", 0.37)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report on two comparisons that differ in their bound."""
    folder = tmp_path_factory.mktemp("report")
    assert write_report([made(), made("other", 90.0)], folder) == folder / "index.html"
    return folder


def test_every_number_of_the_tables_is_the_jsons(report: Path) -> None:
    html = read(report)
    glance, *tables = html.tables
    for name, figures, tenants in (("made", *tables[:2]), ("other", *tables[2:])):
        data = json.loads((report / f"{name}.json").read_text())
        policies = [run["policy"] for run in data["runs"]]
        assert figures[0] == ["", *policies]
        rows = {title: cells for title, *cells in figures[1:]}
        against = rows.pop("against the bound")
        assert set(rows) == set(FIGURES_IN_JSON)
        for i, run in enumerate(data["runs"]):
            for title, path in FIGURES_IN_JSON.items():
                assert shows(rows[title][i], find(run, path)), (title, run["policy"])
            ratio = run["service_gap_max"] / data["bound"]
            assert shows(against[i], ratio)
            assert against[i].startswith("✓" if ratio <= 1 else "✗")
        for tenant, _, *cells in tenants[1:]:
            found = [run["tenants"][tenant] for run in data["runs"]]
            assert all(shows(cell, t["share"]) for cell, t in zip(cells[:3], found, strict=True))
            assert all(shows(cell, t["ttft_s"]["p50"]) for cell, t in zip(cells[3:], found, strict=True))
        own = [row for row in glance[1:] if row[0] == name]
        for row, run in zip(own, data["runs"], strict=True):
            assert row[1] == run["policy"]
            assert shows(row[2], run["service_gap_max"])
            assert shows(row[4], run["throughput_tokens_per_s"])
            assert shows(row[5], run["requests"]["rejected"] / sum(run["requests"].values()))
            assert shows(row[6], run["ttft_s"]["p50"])
            assert shows(row[7], run["ttft_s"]["p99"])


def test_the_json_is_the_contract(report: Path) -> None:
    assert json.loads((report / "made.json").read_text()) == made().to_json()


def test_pictures_exist_show_something_and_have_a_text(report: Path) -> None:
    html = read(report)
    assert len(html.images) == len(html.sources) == 8
    for image, dark in zip(html.images, html.sources, strict=True):
        assert len(image["alt"]) > 40
        light_pixels, dark_pixels = (matplotlib.image.imread(report / name) for name in (image["src"], dark))
        assert light_pixels.shape == dark_pixels.shape
        assert light_pixels.shape[1] > 1000
        assert light_pixels[..., :3].mean() > 0.7 > 0.4 > dark_pixels[..., :3].mean()
        assert len(np.unique(np.round(255 * light_pixels[..., :3]) @ [65536, 256, 1])) > 50


def test_pictures_follow_the_data(report: Path) -> None:
    """The two comparisons differ in the bound alone: the picture that shows it differs, the others do not."""
    same = {
        name: (report / f"made-{name}.png").read_bytes() == (report / f"other-{name}.png").read_bytes()
        for name in ("service", "response", "gap", "throughput")
    }
    assert same == {"service": True, "response": True, "gap": False, "throughput": True}


def test_the_page_is_self_contained(report: Path) -> None:
    """Nothing is loaded from elsewhere: no script, no address, every picture beside the page."""
    text = (report / "index.html").read_text(encoding="utf-8")
    html = Page(text)
    assert "http" not in text
    assert "script" not in html.seen
    assert "prefers-color-scheme: dark" in text
    names = {path.name for path in report.iterdir()}
    assert {image["src"] for image in html.images} | set(html.sources) <= names
    markdown = (report / "report.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\(([^)]*)\)", markdown)) == {image["src"] for image in html.images}


def test_names_from_files_cannot_break_the_page() -> None:
    names = {"<b>|*x*": 0.5, "a_b_[c](d) `e`": 0.5, "~~\\|": 2.0}
    html = Page(to_html(page([made("<i>|*load*.csv", vtc=made_run("vtc", names))]), TITLE))
    assert not html.seen & {"b", "i", "code", "a"}
    assert [row[0] for row in html.tables[2][1:]] == sorted(names)
    assert html.tables[0][1][0] == "<i>|*load*.csv"


def test_27_tenants_stay_readable() -> None:
    comparison = made(vtc=many_tenants("vtc"), fcfs=many_tenants("fcfs"))
    for draw in (draw_service, draw_response):
        figure = draw(comparison, LIGHT)
        assert [len(ax.lines) for ax in figure.axes] == [LINES_SHOWN + 1] * 2
        assert "mean of 22 others" in [text.get_text() for text in figure.legends[0].get_texts()]
    tenants = Page(to_html(page([comparison]), TITLE)).tables[2]
    assert tenants[-1][0] == "19 others"
    shares = [float(row[2]) for row in tenants[1:]]
    assert abs(sum(shares) - 1) < 0.01


def test_the_gap_picture_shows_the_bound_and_every_policy() -> None:
    figure = draw_gap(made(bound=10.0), LIGHT)
    ax = figure.axes[0]
    assert len(ax.lines) == 4
    assert list(ax.lines[-1].get_ydata()) == [10.0, 10.0]
    assert ax.get_ylim()[1] <= 40.0 < max(run.service_gap_max for run in made().runs)


def test_sentences_follow_the_data() -> None:
    """Control: the same runs under another bound, or in each other's place, are described otherwise."""
    comparison = made()
    gaps = {run.policy: run.service_gap_max for run in comparison.runs}
    assert "broken" not in about_gap(made(bound=max(gaps.values())))
    assert "it holds" not in about_gap(made(bound=min(g for g in gaps.values() if g) / 2, vtc=comparison.runs[0]))
    assert "light, which asks for least, waits 0.50 s under vtc and 4.00 s under fcfs" in about_response(
        made(**_unequal())
    )
    assert "8.0 times as long under fcfs as under vtc" in about_response(made(**_unequal()))
    assert "Under rpm:9 39\N{NO-BREAK SPACE}% of the requests are turned away." in about_throughput(comparison)
    assert "costs no throughput" not in about_throughput(comparison)
    assert "costs no throughput" in about_throughput(made(vtc=comparison.runs[1], fcfs=comparison.runs[1]))
    assert "rejects 39\N{NO-BREAK SPACE}%" in headline(comparison)
    assert "no tenant's share depends much" in about_service(made(vtc=comparison.runs[1], fcfs=comparison.runs[1]))
    assert "no tenant's share depends much" not in about_service(comparison)


def _unequal() -> dict[str, Run]:
    """`light` asks for less than `heavy`: its first request of 40 is missing."""
    runs = {}
    for policy, wait in (("vtc", 0.5), ("fcfs", 4.0)):
        run = made_run(policy, {"heavy": 4.0, "light": wait})
        records = [record for record in run.records if record.id != "light-0"]
        runs[policy] = summarise(policy, records, _log_of(records), Weighted(), {})
    return runs


def _log_of(records: Sequence[RequestRecord]) -> ServiceEvents:
    log = ServiceEvents()
    for record in records:
        assert record.finish_s is not None
        log.add(record.finish_s, record.tenant, 50.0, 30)
    return log


def test_sentences_and_tables_agree() -> None:
    comparison = made(**_unequal())
    for run in comparison.runs:
        light = run.tenants["light"]
        assert f"{light.ttft_s.p50:.2f} s under {run.policy}" in about_response(comparison)
        (told,) = re.findall(rf"(\d+)\N{{NO-BREAK SPACE}}% under {run.policy}", about_service(made(**{"only": run})))
        assert any(f"{100 * result.share:.0f}" == told for result in run.tenants.values())


def test_two_workloads_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="called alike"):
        write_report([made("a/x.csv"), made("b/x.csv")], tmp_path)


def test_shares_are_told_from_when_every_tenant_sends() -> None:
    early, late = made_run("vtc", {"early": 0.5}), made_run("vtc", {"late": 0.5}, requests=20)
    moved = [
        RequestRecord(r.id, r.tenant, 10, 20, r.arrival_s + 20, r.outcome, None, (r.first_token_s or 0) + 20, 20 + 1)
        for r in late.records
    ]
    records = [*early.records, *moved]
    log = ServiceEvents()
    for record in records:
        log.add(record.first_token_s or 0.0, record.tenant, 50.0, 30)
    run = summarise("vtc", records, log, Weighted(), {})
    assert about_service(made(vtc=run)).startswith("Since every tenant sends (from 20.0 s), early receives 50")
    assert round(run.tenants["early"].share, 2) == 0.67


def test_nothing_answered_is_said_not_drawn() -> None:
    nothing = made_run("vtc", {"a": 1.0, "b": 1.0}, rejected=40, requests=40)
    records = [
        RequestRecord(r.id, r.tenant, 10, 20, r.arrival_s, Outcome.REJECTED, reason="rate_limit")
        for r in nothing.records
    ]
    comparison = made(vtc=summarise("vtc", records, ServiceEvents(), Weighted(), {}))
    assert about_response(comparison) == "Nothing that the light tenants asked was answered."
    assert about_throughput(comparison) == "Nothing was served."
    for draw in (draw_service, draw_response, draw_gap):
        draw(comparison, LIGHT)
    assert "rejects 100.0" in headline(comparison)
    assert Page(to_html(page([comparison]), TITLE)).tables[1][-1] == ["TTFT p99 (s)", "–"]


def test_progress_rises_to_the_end(tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    write_report([made()], tmp_path / "deep" / "er", progress=lambda what, part: told.append((what, part)))
    parts = [part for _, part in told]
    assert parts == sorted(parts)
    assert (parts[0], parts[-1]) == (0.0, 1.0)
    assert told[0][0] == "drawing made"


@pytest.mark.parametrize("comparisons", [[], [Comparison("w", 0, 1.0, ())]])
def test_nothing_to_report_is_refused(tmp_path: Path, comparisons: list[Comparison]) -> None:
    with pytest.raises(ValueError, match="nothing to report: expected at least one comparison"):
        write_report(comparisons, tmp_path)
    assert not list(tmp_path.iterdir())


def printed(comparison: Comparison) -> str:
    console = Console(file=io.StringIO(), width=80)
    print_comparison(comparison, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_terminal_table_fits_and_says_the_same() -> None:
    comparison = made()
    text = printed(comparison)
    lines = text.splitlines()
    assert "…" not in text
    assert max(map(len, lines)) <= 80
    for title, path in FIGURES_IN_JSON.items():
        (line,) = (line for line in lines if line.strip().startswith(title))
        cells = line.split(title)[1].split()
        assert all(shows(c, find(run.to_json(), path)) for c, run in zip(cells, comparison.runs, strict=True))
    assert "engine: made up" in text
    assert "larger than the pool" not in text


def test_the_terminal_names_requests_that_can_never_run() -> None:
    text = printed(made(vtc=made_run("vtc", {"a": 1.0, "[b]": 1.0}, rejected=7, reason="too_large")))
    assert "vtc: 7 requests are larger than the pool and were refused: a-0, a-1, a-2, a-3, a-4, ..." in " ".join(
        text.split()
    )
    assert "share of [b]" in text


def test_the_suite_runs_each_case_under_four_policies() -> None:
    told: list[tuple[str, float]] = []
    suite = (Case("increase", 60, "because"), Case("arena27-synthetic", 20, "as in the paper"))
    comparisons = compare_suite(lambda what, part: told.append((what, part)), suite)
    assert [c.workload for c in comparisons] == ["increase", "arena27-synthetic"]
    assert [run.policy for run in comparisons[0].runs] == ["vtc", "fcfs", "rpm:60", "lcf"]
    assert comparisons[1].settings["rpm limit"] == "20, as in the paper"
    parts = [part for _, part in told]
    assert parts == sorted(parts)
    assert told[-1] == ("arena27-synthetic, lcf", 1.0)
    assert comparisons[0].runs[0].service_gap_max < comparisons[0].bound < comparisons[0].runs[1].service_gap_max
