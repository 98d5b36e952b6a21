"""Folders that nobody holds are removed by whoever comes next; those that somebody holds are not."""

import subprocess
import sys
import tempfile

import pytest

from fairgate.topology.private_folder import private_folder

CRASH = """
import os, signal
from fairgate.topology.private_folder import private_folder
with private_folder() as folder:
    (folder / "1.sock").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def _tmp(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def test_it_is_for_this_user_alone_and_gone_afterwards(tmp_path):
    with private_folder() as folder:
        assert folder.parent == tmp_path
        assert folder.stat().st_mode & 0o077 == 0
    assert list(tmp_path.iterdir()) == []


def test_one_left_by_a_crash_is_removed_by_the_next(tmp_path):
    subprocess.run([sys.executable, "-c", CRASH], timeout=60, check=False)
    [left] = tmp_path.iterdir()
    assert (left / "1.sock").exists()
    with private_folder() as folder:
        assert list(tmp_path.iterdir()) == [folder]


def test_one_that_is_held_stays(tmp_path):
    with private_folder() as first, private_folder() as second:
        assert set(tmp_path.iterdir()) == {first, second}


def test_other_folders_of_that_name_stay(tmp_path):
    (tmp_path / "fairgate-bench-x").mkdir()
    with private_folder():
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["fairgate-bench-x"]
