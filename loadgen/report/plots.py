"""The pictures of a comparison: PNG files, each in a light and a dark form. Data in, files out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from loadgen.judge.results import Comparison, Outcome, Run
from loadgen.report.curves import Line, arrival_bins, binned_ttft, half_window_s, mean_curve, service_rate
from loadgen.report.findings import GAP_SHOWN, about_gap, about_response, about_service, about_throughput
from loadgen.report.numbers import busiest
from loadgen.report.style import LIGHT, LINES_SHOWN, Theme, add_legend, look, new_figure, save_both, thousands


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
            ax.yaxis.set_major_formatter(FuncFormatter(thousands))


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
