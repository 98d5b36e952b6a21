"""The evaluation of "Fairness in Serving Large Language Models" (Sheng et al., OSDI'24), replayed in the simulator.

Figures 3 to 16 and 19 and tables 2 to 6, numbered as in the proceedings: for each a data file, a picture or a table,
and one sentence, computed, that says what it shows and whether it agrees with what was published.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Sequence
from pathlib import Path

from loadgen.errors import LoadgenError
from loadgen.paper.appendix import APPENDIX
from loadgen.paper.experiment import Experiment, Shown
from loadgen.paper.jobs import Results, run_all
from loadgen.paper.synthetic import SYNTHETIC
from loadgen.paper.tables import EXPERIMENTS as TABLES
from loadgen.paper.trace import TRACE
from loadgen.progress import Progress
from loadgen.report.curves import Panel
from loadgen.report.markdown import escape, table, to_html
from loadgen.report.panels import draw_panels
from loadgen.report.style import save_both
from loadgen.workloads.arena import arena_trace

SEEDS = 10  # a single run means little
SIMULATED = 0.95  # of the whole time
TITLE = "The paper's experiments, replayed"
EXPERIMENTS: tuple[Experiment, ...] = (*SYNTHETIC, *TRACE, *APPENDIX, *TABLES)


def reproduce_paper(
    out: Path, *, progress: Progress | None = None, seeds: int = SEEDS, only: Collection[str] = ()
) -> Path:
    """Run the experiments, all or those named in `only` (`figure-03`, `table-02`), and write `index.html`, `report.md`
    and per experiment its `.csv` and pictures into `out`; returns the HTML page.

    Figures come from one run each, tables are means over `seeds` jittered seeds. `progress` is told as (what was
    done, part of all). Two processes, about five minutes for everything.
    Raises LoadgenError for an unknown name or no seed, OSError when the folder cannot be written.
    """
    chosen = _chosen(only)
    if seeds < 1:
        raise LoadgenError(f"seeds {seeds}: expected at least 1")
    tell = progress or (lambda _what, _part: None)
    out.mkdir(parents=True, exist_ok=True)
    runs = {job for experiment in chosen for job in experiment.runs}
    rows = {job for experiment in chosen for job in experiment.rows}
    results = run_all(runs, rows, seeds, lambda what, part: tell(what, SIMULATED * part))
    shown = [experiment.show(results) for experiment in chosen]
    for i, (experiment, one) in enumerate(zip(chosen, shown, strict=True)):
        tell(f"drawing {experiment.name}", SIMULATED + (1 - SIMULATED) * i / len(chosen))
        _write(experiment, one, out)
    index = _write_page(_page(chosen, shown, results), out)
    tell("report written", 1.0)
    return index


def _chosen(only: Collection[str]) -> list[Experiment]:
    known = [experiment.name for experiment in EXPERIMENTS]
    for name in only:
        if name not in known:
            raise LoadgenError(f"experiment {name!r} is unknown; expected one of {', '.join(known)}")
    return [experiment for experiment in EXPERIMENTS if not only or experiment.name in only]


# -- data and pictures -----------------------------------------------------------------------------------------


def _write(experiment: Experiment, shown: Shown, out: Path) -> None:
    head, rows = _data(shown)
    with (out / f"{experiment.name}.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    if shown.panels:
        save_both(lambda theme: draw_panels(shown.panels, theme), out / f"{experiment.name}.png")


def _data(shown: Shown) -> tuple[Sequence[str], list[Sequence[object]]]:
    """A table as it is; of a picture every point of every line."""
    if shown.rows:
        return shown.head, [*shown.rows]
    return ("panel", "line", "x", "y"), [point for panel in shown.panels for point in _points(panel)]


def _points(panel: Panel) -> list[Sequence[object]]:
    return [
        (panel.title, name, f"{x:.6g}", f"{y:.6g}")
        for name, line in panel.lines.items()
        for x, y in zip(panel.x, line, strict=True)
    ]


# -- the page --------------------------------------------------------------------------------------------------

METHOD = """\
Simulated: the scheduler that runs in the gateway, in front of a model of the authors' engine. "Published" is what the
same formulas give on the runs that the authors recorded beside their code. The text of the paper was not at hand; what
readers quote of its tables 2 to 6 are these values, to the last digit. Figures are compared with the recorded runs.
A value agrees when it lies within 5 % (throughput), 8 % (shares), 10 % (service rates), 15 % (averages of the service
difference, its growth), 35 % (waits, and the differences of figure 15), 45 % (maxima of the service difference) or
50 % (other largest differences) of the published one, margins that are ours; or, as single runs were published, when
that one lies in the range seen over the seeds, which is counted apart."""

LEFT_OUT = """\
Not reproduced: the "isolation" column of table 2, which is the authors' judgement (the waits behind it are figures 10,
12 and 13); figure 17, which times a GPU; figures 18 and 20, the waits by profiled cost and the lengths of the trace.
Figure 8 follows the recorded runs (512 / 32 and 32 / 512 tokens): readers quote the text of the paper with 64 for 32.
VTC (predict) predicts as the authors' code does, (4 old + new) / 5 per client, where the text says the mean of the
last five."""

NO_TRACE = """\
**The trace of the Chatbot Arena is not here: figures 11 to 14 and tables 2 and 3 are of a synthetic workload made from
its statistics, and what they say of agreement is about that.**"""


def _page(chosen: Sequence[Experiment], shown: Sequence[Shown], results: Results) -> str:
    agreeing = sum(one.agrees for one in shown)
    holding = sum(one.holds for one in shown)
    lead = (
        f"Of {len(shown)} figures and tables {holding} show what the paper found, {agreeing} of them also in every "
        f"value compared. Tables are means over {results.seeds} seeds."
    )
    parts = [f"# {TITLE}", lead, _overview(chosen, shown), METHOD, LEFT_OUT]
    if arena_trace() is None:
        parts.insert(2, NO_TRACE)
    parts += [_section(experiment, one) for experiment, one in zip(chosen, shown, strict=True)]
    return "\n\n".join(parts) + "\n"


def _overview(chosen: Sequence[Experiment], shown: Sequence[Shown]) -> str:
    rows = [[experiment.title, *_counts(one)] for experiment, one in zip(chosen, shown, strict=True)]
    return table(["", "finding", "values", "within the margin", "only within the seeds' range", "differ"], rows)


def _counts(shown: Shown) -> list[str]:
    near, agreeing = (sum(each) for each in zip(*((c.near, c.agrees) for c in shown.checks), strict=True))
    total = len(shown.checks)
    return ["✓" if shown.holds else "✗", *map(str, (total, near, agreeing - near, total - agreeing))]


def _section(experiment: Experiment, shown: Shown) -> str:
    sentence = escape(shown.sentence()[0].upper() + shown.sentence()[1:])
    parts = [f"## {escape(experiment.title)}", f"*{escape(experiment.setup)}*", sentence]
    if shown.panels:
        parts.append(f"![{escape(experiment.title)}. {sentence}]({experiment.name}.png)")
    if shown.rows:
        parts.append(table(shown.head, shown.rows))
    parts.append(f"[Data]({experiment.name}.csv)")
    return "\n\n".join(parts)


def _write_page(markdown: str, out: Path) -> Path:
    (out / "report.md").write_text(markdown, encoding="utf-8")
    index = out / "index.html"
    index.write_text(to_html(markdown, TITLE), encoding="utf-8")
    return index
