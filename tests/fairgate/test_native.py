"""Native code is a gift of the machine: where it cannot be built, what there is of it goes, and plain Python runs."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from sysconfig import get_config_var

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform == "win32", reason="the compiler is not named by CC there")
@pytest.mark.skipif(find_spec("mypyc") is None, reason="mypyc, which asks for a compiler, is not installed")
@pytest.mark.skipif(find_spec("setuptools") is None, reason="setuptools is not installed")
def test_without_a_compiler_it_is_plain_python(tmp_path):
    """In a tree with no more than what the build reads, and with native code of a better day in it."""
    for name in ("setup.py", "pyproject.toml", "README.md", "fairgate/native.py", "fairness/ticket.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    old = tmp_path / f"fairness/ticket{get_config_var('EXT_SUFFIX')}"
    old.touch()
    environment = {name: value for name, value in os.environ.items() if name != "FAIRGATE_PURE"}
    done = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"],
        cwd=tmp_path, env=environment | {"CC": str(tmp_path / "no-compiler")}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "fairgate: plain Python (no C compiler that finds Python's headers)\n"
    assert not old.exists()
