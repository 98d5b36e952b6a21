"""Where results go: files that the user named, and the line that says where they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from loadgen.judge.results import Comparison


def write_text(path: Path | None, text: str) -> None:
    """Into a file whose folder need not be there; nowhere without one."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def write_json(path: Path | None, results: dict[str, Any]) -> None:
    write_text(path, json.dumps(results, indent=2) + "\n")


def write_report(comparisons: Sequence[Comparison], out: Path) -> None:
    """Tables and pictures of what was compared, in the folder `out`."""
    from fairgate.progress import progress_bar
    from loadgen.report import page

    with progress_bar() as progress:
        written = page.write_report(comparisons, out, progress=progress)
    tell_report(written)


def tell_report(page: Path) -> None:
    typer.echo(f"report: {page}")


def end_run(kept: bool, place: Path) -> None:
    """Of a run that was to show something: where its logs are. Raises typer.Exit, status 1 unless all was kept."""
    typer.echo(f"logs are in {place}")
    raise typer.Exit(not kept)
