"""Native code that lies beside its source wins the import, so an edit of the source would do nothing: whether what was
compiled is what lies here.

Only a developer's tree can be out of step. What is installed has no note, and is not looked at. `setup.py` runs this
file by its path, before anything is installed: it imports nothing of ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from sysconfig import get_config_var

ROOT = Path(__file__).parents[1]
PACKAGES = ("fairness", "gateway")
SUFFIX = str(get_config_var("EXT_SUFFIX"))
"""What this interpreter imports: `.cpython-311-x86_64-linux-gnu.so`."""
LIBRARY = "__mypyc" + SUFFIX
"""The one library with the code of all modules: beside each source lies a stub that hands on to it."""


def stale(root: Path = ROOT) -> str:
    """What is wrong with the native code in a tree, and what to do; empty where it is as its sources, or where there
    is none."""
    found = _digests(root)
    if not found or not (root / "setup.py").exists():
        return ""
    noted = _noted(root)
    changed = [name for name in sorted(found.keys() | noted.keys()) if found.get(name) != noted.get(name)]
    if not changed:
        return ""
    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    return (
        f"{changed[0]}{more} changed since it was compiled, and the old native code would run; "
        "expected `make native` first, or `make pure`"
    )


def note(root: Path) -> None:
    """What lies here was just built from the sources as they are."""
    path = _note(root)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(_digests(root), indent=1), "utf-8")


def forget(root: Path) -> None:
    """Remove all native code of this interpreter from a tree: from here on it is plain Python."""
    _note(root).unlink(missing_ok=True)
    for path in _native(root):
        path.unlink()


def _note(root: Path) -> Path:
    return root / "build" / "native.json"


def _noted(root: Path) -> dict[str, str]:
    try:
        return dict(json.loads(_note(root).read_text("utf-8")))
    except (OSError, ValueError):
        return {}


def _digests(root: Path) -> dict[str, str]:
    """Of the sources that have native code beside them, by path."""
    modules = (path for path in _native(root) if not path.name.endswith(LIBRARY))
    sources = (path.with_name(path.name.removesuffix(SUFFIX) + ".py") for path in modules)
    return {source.relative_to(root).as_posix(): _digest(source) for source in sources}


def _digest(source: Path) -> str:
    return sha256(source.read_bytes()).hexdigest() if source.exists() else "gone"


def _native(root: Path) -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((root / package).rglob(f"*{SUFFIX}"))
