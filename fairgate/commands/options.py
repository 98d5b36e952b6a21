"""Options that several commands have, and how the text of an option is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Annotated

import typer

from fairgate.errors import CommandError

if TYPE_CHECKING:
    from loadgen.workloads.workload import Workload

Model = Annotated[str, typer.Option(help="smollm2, gemma3-270m, or a local Hugging Face folder.")]
WorkloadName = Annotated[
    str, typer.Option(help="Name of a workload (`fairgate workloads` lists them) or a trace file.")
]
TimeScale = Annotated[float, typer.Option(help="Above 1 stretches the arrivals, below 1 squeezes them.")]
FirstSeconds = Annotated[float, typer.Option(help="Send only what arrives in the first seconds; 0: all of it.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the results to this file.")]
TablesFile = Annotated[Path | None, typer.Option("--out", help="Write the tables to this file too (Markdown).")]
Folder = Annotated[
    Path | None, typer.Option(help="Folder for configurations and logs; a new temporary one by default.")
]


def place_of(folder: Path | None, prefix: str) -> Path:
    """The folder of a run, absolute: that of the option, or a new one that stays."""
    return (folder or Path(mkdtemp(prefix=prefix))).absolute()


def workload_of(name: str, time_scale: float, seconds: float) -> Workload:
    """A named workload or a trace file, stretched, and of that what arrives in the first `seconds` (0: all of it).

    Raises LoadgenError for one that cannot be used.
    """
    from loadgen.workloads.catalogue import load_workload

    known = load_workload(name).stretched(time_scale)
    return replace(known, requests=tuple(r for r in known.requests if not seconds or r.t_s < seconds))


def items_of(text: str) -> list[str]:
    """The items of a comma-separated option."""
    return [item.strip() for item in text.split(",") if item.strip()]


def pair(option: str, item: str, form: str) -> tuple[str, str]:
    """NAME=VALUE. Raises CommandError."""
    name, equals, value = item.partition("=")
    if not (name and equals and value):
        raise CommandError(f"{option} {item}: expected {form}")
    return name, value


def one_of(option: str, value: str, *known: str) -> str:
    """Raises CommandError."""
    if value not in known:
        raise CommandError(f"{option} {value}: expected {' or '.join(name for name in known if name)}")
    return value


def counts(option: str, text: str) -> list[int]:
    """Whole numbers from 1, comma-separated. Raises CommandError."""
    items = items_of(text)
    if not items or not all(item.isdecimal() and int(item) > 0 for item in items):
        raise CommandError(f"{option} {text}: expected whole numbers of at least 1, like 2,4")
    return [int(item) for item in items]


def two_numbers(option: str, text: str) -> tuple[float, float]:
    """FIRST:SECOND. Raises CommandError."""
    try:
        first, second = (float(item) for item in text.split(":"))
    except ValueError:
        first = second = 0.0
    if not (0 < first < 1e6 and 0 < second < 1e6):
        raise CommandError(f"{option} {text}: expected two numbers above 0, like 4:1")
    return first, second
