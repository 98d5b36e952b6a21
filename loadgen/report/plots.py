"""The pictures of a comparison: PNG files, each in a light and a dark form. Data in, files out, no global state.

Colours are Okabe and Ito's (told apart with any colour vision); lines also differ in style, bars carry their number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from loadgen.judge.results import Comparison, Outcome, Run
from loadgen.report.curves import Line, arrival_bins, binned_ttft, half_window_s, mean_curve, service_rate
from loadgen.report.findings import (
    GAP_SHOWN,
    about_gap,
    about_response,
    about_service,
    about_throughput,
    busiest,
)

LINES_SHOWN = 5
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
DPI = 110


@dataclass(frozen=True, slots=True)
class Theme:
    """Ink, paper and line colours of one form."""

    suffix: str
    paper: str
    ink: str
    faint: str
    others: str
    lines: tuple[str, ...]


LIGHT = Theme(
    "", "#ffffff", "#1f2328", "#d5d9de", "#7d848c", ("#0072b2", "#d55e00", "#009e73", "#aa3f83", "#b07d00", "#3d9bd6")
)
DARK = Theme(
    "-dark",
    "#161b22",
    "#e6edf3",
    "#363d47",
    "#9aa4af",
    ("#56b4e9", "#f28e4b", "#2fc49a", "#e29cc8", "#f0e442", "#8ec9f0"),
)


@dataclass(frozen=True, slots=True)
class Picture:
    """One kind of plot: the end of its file names, its title, and the sentence that says what it shows."""

    name: str
    title: str
    draw: Callable[[Comparison, Theme], Figure]
    sentence: Callable[[Comparison], str]

    def file_name(self, comparison: Comparison, theme: Theme = LIGHT) -> str:
        return f"{slug(comparison.workload)}-{self.name}{theme.suffix}.png"

    def save(self, comparison: Comparison, folder: Path) -> None:
        save_both(lambda theme: self.draw(comparison, theme), folder / self.file_name(comparison))


def save_both(draw: Callable[[Theme], Figure], path: Path) -> None:
    """Write a picture to `path`, a .png, and its dark form beside it."""
    for theme in (LIGHT, DARK):
        draw(theme).savefig(path.with_stem(path.stem + theme.suffix), dpi=DPI, facecolor=theme.paper)


def slug(workload: str) -> str:
    """A file name's part for a workload, which may be a path."""
    return re.sub(r"[^a-z0-9]+", "-", Path(workload).name.lower()).strip("-") or "workload"


# -- the pictures ----------------------------------------------------------------------------------------------


def draw_service(comparison: Comparison, theme: Theme) -> Figure:
    """Service rate of each tenant over time, one panel per policy."""

    def lines(run: Run, tenants: Sequence[str]) -> tuple[Line, list[Line]]:
        times = np.linspace(0, run.last_arrival_s, 240)
        return times, [service_rate(run, tenant, times) for tenant in tenants]

    label = f"service per second\n(mean over {2 * half_window_s(comparison.runs[0]):.0f} s)"
    return _panels(comparison, theme, label, lines)


def draw_response(comparison: Comparison, theme: Theme) -> Figure:
    """Median time to first token of each tenant, by time of arrival, one panel per policy."""

    def lines(run: Run, tenants: Sequence[str]) -> tuple[Line, list[Line]]:
        edges = arrival_bins(run)
        return (edges[1:] + edges[:-1]) / 2, [binned_ttft(run, tenant, edges) for tenant in tenants]

    figure = _panels(comparison, theme, "time to first token (s)\n(median, by arrival)", lines)
    _maybe_log(figure.axes)
    for line in (line for ax in figure.axes for line in ax.lines):
        line.set(marker="o", markersize=2.5)  # a moment between two without answers is a dot, not nothing
    return figure


def draw_gap(comparison: Comparison, theme: Theme) -> Figure:
    """The accumulated service gap of each policy against the bound."""
    figure, axes = new_figure(theme, 1, 1, height=3.8)
    ax = axes[0]
    for i, run in enumerate(comparison.runs):
        label = f"{run.policy} (max {run.service_gap_max:,.0f})"
        ax.plot(run.series.times_s, run.series.gap, label=label, **look(theme, i))
    ax.axhline(comparison.bound, color=theme.ink, linewidth=1.2, linestyle=(0, (2, 2)))
    ax.annotate(
        f"bound {comparison.bound:,.0f}",
        (0, comparison.bound),
        xycoords=("axes fraction", "data"),
        xytext=(4, 4),
        textcoords="offset points",
        color=theme.ink,
    )
    ax.set_xlabel("time (s)")
    ax.set_ylabel("service gap\n(service units / weight)")
    ax.set_xlim(0, _span_s(comparison))
    ax.set_ylim(0, _gap_shown(comparison))
    add_legend(figure, [ax], theme)
    return figure


def draw_throughput(comparison: Comparison, theme: Theme) -> Figure:
    """Throughput of each policy, and what became of its requests."""
    figure, (left, right) = new_figure(theme, 1, 2, height=0.9 + 0.42 * len(comparison.runs))
    places = range(len(comparison.runs))
    colours = [theme.lines[i % len(theme.lines)] for i in places]
    bars = left.barh(places, [run.throughput_tokens_per_s for run in comparison.runs], color=colours, height=0.6)
    left.bar_label(bars, fmt="{:,.0f}", padding=4, color=theme.ink)
    left.set_yticks(places, [run.policy for run in comparison.runs])
    left.set_xlabel("throughput (tokens/s)")
    left.margins(x=0.18)
    _stack_requests(right, comparison, theme)
    for ax in (left, right):
        ax.invert_yaxis()
        ax.grid(visible=False, axis="y")
    return figure


PICTURES = (
    Picture("service", "Service rate over time", draw_service, about_service),
    Picture("response", "Response time over time", draw_response, about_response),
    Picture("gap", "Accumulated service gap against the bound", draw_gap, about_gap),
    Picture("throughput", "Throughput and rejected requests", draw_throughput, about_throughput),
)


def _span_s(comparison: Comparison) -> float:
    return max(run.last_arrival_s for run in comparison.runs)


def _gap_shown(comparison: Comparison) -> float:
    """The height of the gap's picture: all of it, unless a policy leaves the bound too far behind."""
    largest = max(run.service_gap_max for run in comparison.runs)
    return max(1.25 * comparison.bound, min(1.05 * largest, GAP_SHOWN * comparison.bound))


# -- drawing ---------------------------------------------------------------------------------------------------


def _panels(
    comparison: Comparison,
    theme: Theme,
    y_label: str,
    lines: Callable[[Run, Sequence[str]], tuple[Line, list[Line]]],
) -> Figure:
    """One panel per policy on common axes; a line per tenant, and one for the mean of the tenants not shown."""
    columns = min(2, len(comparison.runs))
    rows = -(-len(comparison.runs) // columns)
    figure, axes = new_figure(theme, rows, columns, height=0.7 + 2.3 * rows, shared=True)
    shown = busiest(comparison, LINES_SHOWN)
    others = [tenant for tenant in comparison.runs[0].tenants if tenant not in shown]
    for ax, run in zip(axes, comparison.runs, strict=False):
        ax.set_title(run.policy, loc="left", fontsize=11, fontweight="bold", color=theme.ink)
        times, values = lines(run, [*shown, *others])
        if others:
            label = f"mean of {len(others)} others"
            ax.plot(times, mean_curve(values[len(shown) :]), color=theme.others, linewidth=2.6, label=label)
        for i, tenant in enumerate(shown):
            ax.plot(times, values[i], label=tenant, **look(theme, i))
    axes[0].set_xlim(0, _span_s(comparison))
    axes[0].set_ylim(0, None)
    for ax in axes[len(comparison.runs) :]:
        ax.set_visible(False)
    for ax in axes[-columns:]:
        ax.set_xlabel("time (s)")
    for ax in axes[::columns]:
        ax.set_ylabel(y_label)
    add_legend(figure, axes[:1], theme)
    return figure


def new_figure(
    theme: Theme, rows: int, columns: int, *, height: float, shared: bool = False
) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(10, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=shared, sharey=shared)
    for ax in grid.flat:
        ax.set_facecolor(theme.paper)
        ax.tick_params(colors=theme.ink, labelsize=9, length=0)
        ax.grid(color=theme.faint, linewidth=0.7)
        ax.set_axisbelow(True)
        ax.spines[:].set_visible(False)
        ax.xaxis.label.set_color(theme.ink)
        ax.yaxis.label.set_color(theme.ink)
        ax.yaxis.set_major_formatter(FuncFormatter(_thousands))
        ax.xaxis.set_major_formatter(FuncFormatter(_thousands))
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6))
    return figure, list(grid.flat)


def look(theme: Theme, i: int) -> dict[str, Any]:
    return {
        "color": theme.lines[i % len(theme.lines)],
        "linestyle": STYLES[i % len(STYLES)],
        "linewidth": 1.7,
    }


def add_legend(figure: Figure, axes: Sequence[Axes], theme: Theme) -> None:
    """One legend above the picture for the named lines of these axes."""
    named = [entry for ax in axes for entry in zip(*ax.get_legend_handles_labels(), strict=True)]
    labels = [label for _, label in named]
    figure.legend(
        [handle for handle, _ in named],
        labels,
        loc="outside upper left",
        ncols=min(4, len(labels)) if max(map(len, labels)) > 12 else 6,
        frameon=False,
        labelcolor=theme.ink,
        fontsize=9,
        handlelength=3,
    )


def _maybe_log(axes: Sequence[Axes]) -> None:
    """Waits of seconds and of minutes in one picture: a logarithmic axis when they differ by more than 30 times."""
    values = np.concatenate([np.asarray(line.get_ydata(), float) for ax in axes for line in ax.lines] or [np.ones(1)])
    values = values[np.isfinite(values) & (values > 0)]
    if len(values) and values.max() > 30 * values.min():
        for ax in axes:
            ax.set_yscale("log")
            ax.set_ylim(values.min() / 1.5, values.max() * 1.5)
            ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
            ax.yaxis.set_minor_locator(NullLocator())
            ax.yaxis.set_major_formatter(FuncFormatter(_thousands))


def _stack_requests(ax: Axes, comparison: Comparison, theme: Theme) -> None:
    places = range(len(comparison.runs))
    left = np.zeros(len(places))
    total = max(len(run.records) for run in comparison.runs)
    for outcome, colour in zip(Outcome, (theme.others, theme.lines[1], theme.lines[3]), strict=True):
        counts = np.array([run.count(outcome) for run in comparison.runs])
        if counts.any():
            bars = ax.barh(places, counts, left=left, height=0.6, label=outcome.value, color=colour)
            labels = [f"{count:,}" if count > 0.06 * total else "" for count in counts]
            ax.bar_label(bars, labels, label_type="center", color=theme.paper, fontsize=9)
            left += counts
    ax.set_xlabel("requests")
    ax.set_yticks(places, [""] * len(places))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, labelcolor=theme.ink, fontsize=9)


def _thousands(value: float, _: object) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 or value == int(value) else f"{value:g}"
