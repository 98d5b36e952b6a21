"""Panels of lines side by side, in the look of the report's pictures."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from loadgen.report.curves import Panel
from loadgen.report.style import LINES_SHOWN, Theme, add_legend, look, new_figure

HEIGHT = 3.6  # inches


def draw_panels(panels: Sequence[Panel], theme: Theme) -> Figure:
    """At most two panels in a row, one legend: a line of the same name looks the same in every panel."""
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(theme, rows, columns, height=HEIGHT * rows)
    looks = {name: look(theme, i) for i, name in enumerate(dict.fromkeys(_named(panels)))}
    shown: set[str] = set()
    for ax, panel in zip(axes, panels, strict=False):
        ax.set_title(panel.title, loc="left", fontsize=11, fontweight="bold", color=theme.ink)
        for name, line in panel.lines.items():
            if name not in looks:
                ax.plot(panel.x, line, color=theme.others, linewidth=0.8, alpha=0.6)
        for name in _names(panel):
            label = "_" + name if name in shown else name
            ax.plot(panel.x, panel.lines[name], label=label, marker="o", markersize=2.5, **looks[name])
            shown.add(name)
        ax.set_xlabel(panel.x_label)
        ax.set_ylabel(panel.y_label)
        ax.set_ylim(0, None)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    add_legend(figure, axes[: len(panels)], theme)
    return figure


def _names(panel: Panel) -> list[str]:
    return list(panel.marked) if panel.marked or len(panel.lines) > LINES_SHOWN + 3 else list(panel.lines)


def _named(panels: Sequence[Panel]) -> list[str]:
    return [name for panel in panels for name in _names(panel)]
