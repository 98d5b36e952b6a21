"""Trace files: what is read, and what each malformed one is told."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from loadgen.errors import LoadgenError
from loadgen.workloads.traces import read_trace
from loadgen.workloads.workload import Request

HEADER = "t_s,tenant,input_tokens,output_tokens,model,session\n"


def write(tmp_path: Path, text: str, name: str = "trace.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_requests_come_in_order_of_arrival(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER + "2.5,b,7,8,m,s\n0,a,1,2,,\n")
    assert read_trace(path) == (Request(0.0, "a", 1, 2), Request(2.5, "b", 7, 8, "m", "s"))


def test_gzip_and_plain_are_read_alike(tmp_path: Path) -> None:
    text = HEADER + "0,a,1,2,,\n1,b,3,4,,\n"
    packed = tmp_path / "trace.csv.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    assert read_trace(packed) == read_trace(write(tmp_path, text))


def test_model_and_session_may_be_missing(tmp_path: Path) -> None:
    path = write(tmp_path, "tenant,t_s,output_tokens,input_tokens\na,1,20,10\n")
    assert read_trace(path) == (Request(1.0, "a", 10, 20),)


@pytest.mark.parametrize(
    ("row", "column", "value"),
    [
        ("x,a,1,2,,", "t_s", "'x'"),
        ("-1,a,1,2,,", "t_s", "'-1'"),
        ("nan,a,1,2,,", "t_s", "'nan'"),
        ("inf,a,1,2,,", "t_s", "'inf'"),
        ("0,,1,2,,", "tenant", "empty"),
        ("0,a,1.5,2,,", "input_tokens", "'1.5'"),
        ("0,a,0,2,,", "input_tokens", "'0'"),
        ("0,a,1,-2,,", "output_tokens", "'-2'"),
        ("0,a,1,,,", "output_tokens", "''"),
    ],
)
def test_a_malformed_value_is_named_with_file_line_and_column(
    tmp_path: Path, row: str, column: str, value: str
) -> None:
    path = write(tmp_path, HEADER + "0,a,1,2,,\n" + row + "\n")
    with pytest.raises(LoadgenError, match="expected") as error:
        read_trace(path)
    assert f"{path}, line 3, column {column}: {value}" in str(error.value)


def test_a_row_of_another_length_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER + "0,a,1,2\n")
    with pytest.raises(LoadgenError, match="line 2: 4 columns; expected 6"):
        read_trace(path)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "t_s,tenant,input_tokens\n0,a,1\n")
    with pytest.raises(LoadgenError, match="line 1: column 'output_tokens' is missing"):
        read_trace(path)


def test_a_trace_without_requests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadgenError, match="no requests"):
        read_trace(write(tmp_path, HEADER))


def test_a_file_that_is_not_gzip_is_refused_without_a_stack_trace(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER, "trace.csv.gz")
    with pytest.raises(LoadgenError, match="cannot be read"):
        read_trace(path)
