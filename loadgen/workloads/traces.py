"""Trace files: `t_s,tenant,input_tokens,output_tokens,model,session`, as .csv or .csv.gz.

Times in seconds from the start, lengths in tokens; `model` and `session` may be empty or missing.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import TextIO

from loadgen.errors import LoadgenError
from loadgen.workloads.workload import Request, by_arrival

REQUIRED = ("t_s", "tenant", "input_tokens", "output_tokens")
OPTIONAL = ("model", "session")


def read_trace(path: Path) -> tuple[Request, ...]:
    """The requests of a trace file, in order of arrival.

    Raises LoadgenError that names the file, and for a malformed row its line and column.
    """
    try:
        with _open(path) as file:
            requests = by_arrival(_rows(path, file))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise LoadgenError(f"trace {path}: cannot be read ({error})") from None
    if not requests:
        raise LoadgenError(f"trace {path}: no requests; expected at least one row below the header")
    return requests


def _open(path: Path) -> TextIO:
    return gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="")


def _rows(path: Path, file: TextIO) -> Iterator[Request]:
    reader = csv.reader(file)
    header = [name.strip() for name in next(reader, [])]
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise LoadgenError(
            f"trace {path}, line 1: column {missing[0]!r} is missing; "
            f"expected the header {','.join(REQUIRED + OPTIONAL)}"
        )
    for row in reader:
        where = f"trace {path}, line {reader.line_num}"
        if len(row) != len(header):
            raise LoadgenError(f"{where}: {len(row)} columns; expected {len(header)}, as in the header")
        yield _request(where, dict(zip(header, row, strict=True)))


def _request(where: str, row: dict[str, str]) -> Request:
    tenant = row["tenant"].strip()
    if not tenant:
        raise LoadgenError(f"{where}, column tenant: empty; expected the id of a tenant")
    return Request(
        _moment(where, row["t_s"]),
        tenant,
        _tokens(where, "input_tokens", row["input_tokens"]),
        _tokens(where, "output_tokens", row["output_tokens"]),
        row.get("model", "").strip(),
        row.get("session", "").strip(),
    )


def _moment(where: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (isfinite(value) and value >= 0):
        raise LoadgenError(f"{where}, column t_s: {text!r}; expected seconds from the start, at least 0")
    return value


def _tokens(where: str, column: str, text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise LoadgenError(f"{where}, column {column}: {text!r}; expected a whole number of tokens, at least 1")
    return int(text)
