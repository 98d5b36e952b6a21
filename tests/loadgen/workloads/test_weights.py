"""Weights files in their three forms, and what each malformed one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadgen.errors import LoadgenError
from loadgen.workloads.weights import read_weights

TENANTS = ("a", "b", "7")


def write(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("w.yaml", "a: 1\nb: 2.5\n7: 4\n"),
        ("w.json", '{"a": 1, "b": 2.5, "7": 4}'),
        ("w.csv", "tenant,weight\na,1\nb,2.5\n\n7,4\n"),
    ],
)
def test_the_three_forms_say_the_same(tmp_path: Path, name: str, text: str) -> None:
    assert read_weights(write(tmp_path, name, text), TENANTS) == {"a": 1.0, "b": 2.5, "7": 4.0}


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("w.yaml", "a: heavy", "tenant 'a' weighs 'heavy'; expected a number above 0"),
        ("w.yaml", "a: 0", "tenant 'a' weighs 0"),
        ("w.yaml", "a: .inf", "tenant 'a' weighs inf"),
        ("w.yaml", "c: 1", "tenant 'c' is not in the workload; it has 7, a, b"),
        ("w.yaml", "- a\n- b", "expected a mapping"),
        ("w.yaml", "", "expected a mapping"),
        ("w.yaml", "{a: 1", "cannot be read"),
        ("w.csv", "a,1\n", "line 1: expected the header tenant,weight"),
        ("w.csv", "tenant,weight\n\na\n", "line 3: 1 columns"),
        ("w.csv", "", "line 1: expected the header"),
    ],
)
def test_a_malformed_file_is_named(tmp_path: Path, name: str, text: str, told: str) -> None:
    path = write(tmp_path, name, text)
    with pytest.raises(LoadgenError) as error:
        read_weights(path, TENANTS)
    assert str(path) in str(error.value)
    assert told in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LoadgenError, match="cannot be read"):
        read_weights(tmp_path / "absent.yaml", TENANTS)
