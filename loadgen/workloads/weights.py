"""Weights files: which tenant gets how many shares."""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping
from math import isfinite
from pathlib import Path

import yaml

from loadgen.errors import LoadgenError


def read_weights(path: Path, tenants: Collection[str]) -> dict[str, float]:
    """The weights in a file: YAML or JSON with one mapping, like `client-1: 2`, or .csv with the header
    `tenant,weight`. `tenants` are those of the workload; one that is not named weighs 1.

    Raises LoadgenError that names the file and the entry: not a mapping, not a number above 0, or not a tenant.
    """
    try:
        text = path.read_text()
        entries = _from_csv(path, text) if path.suffix == ".csv" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise LoadgenError(f"weights {path}: cannot be read ({reason}); expected a YAML, JSON or CSV file") from None
    if not isinstance(entries, Mapping):
        raise LoadgenError(f"weights {path}: expected a mapping of tenants to weights, like client-1: 2")
    return {str(tenant): _weight(path, str(tenant), value, tenants) for tenant, value in entries.items()}


def _from_csv(path: Path, text: str) -> dict[str, str]:
    reader = csv.reader(text.splitlines())
    if [name.strip() for name in next(reader, [])] != ["tenant", "weight"]:
        raise LoadgenError(f"weights {path}, line 1: expected the header tenant,weight")
    entries = {}
    for row in filter(None, reader):
        if len(row) != 2:
            raise LoadgenError(f"weights {path}, line {reader.line_num}: {len(row)} columns; expected tenant,weight")
        entries[row[0].strip()] = row[1]
    return entries


def _weight(path: Path, tenant: str, value: object, tenants: Collection[str]) -> float:
    if tenant not in tenants:
        known = ", ".join(sorted(tenants)[:8])
        raise LoadgenError(f"weights {path}: tenant {tenant!r} is not in the workload; it has {known}")
    try:
        weight = float(str(value))
    except ValueError:
        weight = 0.0
    if not (isfinite(weight) and weight > 0):
        raise LoadgenError(f"weights {path}: tenant {tenant!r} weighs {value!r}; expected a number above 0")
    return weight
