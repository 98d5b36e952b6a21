"""The look of the report's pictures: colours, line styles, axes and legends, each in a light and a dark form.

Colours are Okabe and Ito's (told apart with any colour vision); lines also differ in style. No global state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

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


def save_both(draw: Callable[[Theme], Figure], path: Path) -> None:
    """Write a picture to `path`, a .png, and its dark form beside it."""
    for theme in (LIGHT, DARK):
        draw(theme).savefig(path.with_stem(path.stem + theme.suffix), dpi=DPI, facecolor=theme.paper)


def new_figure(
    theme: Theme, rows: int, columns: int, *, height: float, shared: bool = False
) -> tuple[Figure, Sequence[Axes]]:
    """An empty picture of `rows` times `columns` axes, `height` inches high; with `shared` all have the same limits."""
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
        ax.yaxis.set_major_formatter(FuncFormatter(thousands))
        ax.xaxis.set_major_formatter(FuncFormatter(thousands))
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6))
    return figure, list(grid.flat)


def look(theme: Theme, i: int) -> dict[str, Any]:
    """How line i of a picture is drawn."""
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


def thousands(value: float, _: object) -> str:
    """A number at an axis."""
    return f"{value:,.0f}" if abs(value) >= 10 or value == int(value) else f"{value:g}"
