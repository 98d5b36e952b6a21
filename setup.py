"""Native code where it pays: the modules named in pyproject.toml (`tool.fairgate.compiled`) are compiled by mypyc, from
the same source, where a C compiler is. Where there is none, or with FAIRGATE_PURE=1, everything is plain Python.

    pip install .                              a wheel, compiled or not
    python setup.py build_ext --inplace        a developer's tree (`make native`), with a note of what it was built from
"""

import os
import runpy
import sys
import sysconfig
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
BUILDS = {"bdist_wheel", "build_ext"}  # all else asks for names and versions alone: mypy need not run for that


def obstacle() -> str:
    """Why nothing is compiled; empty where it can be."""
    if os.environ.get("FAIRGATE_PURE") == "1":
        return "FAIRGATE_PURE=1"
    try:
        import mypyc.build  # noqa: F401
    except ImportError:
        return "mypy is not installed"
    return "" if compiles() else "no C compiler that finds Python's headers"


def compiles() -> bool:
    from setuptools._distutils.ccompiler import new_compiler
    from setuptools._distutils.sysconfig import customize_compiler

    with TemporaryDirectory() as folder:
        probe = Path(folder, "probe.c")
        probe.write_text("#include <Python.h>\n")
        try:
            compiler = new_compiler()
            customize_compiler(compiler)
            compiler.compile([str(probe)], output_dir=folder, include_dirs=[sysconfig.get_path("include")])
        except Exception:  # each version of setuptools has errors of its own for a compiler that is not there
            return False
    return True


def extensions() -> list[Extension]:
    """One library for all modules, so that calls between them are plain calls; in a package and not at the root, since
    an editable install finds packages alone. Level 1: half the time to build of level 3, and nothing was slower."""
    from mypyc.build import mypycify

    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["fairgate"]["compiled"]
    modules = sorted({str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern)})
    modules = [module for module in modules if not module.endswith("__init__.py")]
    # What they import need not be installed while a wheel is built, and is no business of this build.
    checks = ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent"]
    return mypycify([*checks, *modules], opt_level="1", debug_level="0", group_name="fairness.native")


class BuildInPlace(build_ext):
    """In a developer's tree native code wins over the source beside it: leave none that this build did not make."""

    def run(self) -> None:
        native = runpy.run_path(str(ROOT / "fairgate" / "native.py"))
        if self.inplace:
            native["forget"](ROOT)
        super().run()
        if self.inplace:
            native["note"](ROOT)


why_not = obstacle() if BUILDS & set(sys.argv) else "not asked"
if why_not != "not asked":
    print(f"fairgate: {f'plain Python ({why_not})' if why_not else 'compiled'}", flush=True)
setup(ext_modules=[] if why_not else extensions(), cmdclass={"build_ext": BuildInPlace})
