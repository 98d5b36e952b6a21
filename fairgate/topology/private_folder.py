"""A folder for the sockets of processes that belong together, for this user alone, gone when its owner is.

An owner that is killed cannot remove its folder. So it holds a lock in it, which ends with it however that comes, and
the next one removes what nobody holds. A process id would not do: in containers that share /tmp it says nothing.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "fairgate-"
_LOCK = "lock"


@contextmanager
def private_folder() -> Iterator[Path]:
    _remove_left()
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        folder = Path(name)
        with (folder / "taking").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.rename(folder / "taking", folder / _LOCK)  # it is never there without being held
            yield folder


def _remove_left() -> None:
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError), path.open("r+") as lock:  # another user's, held, or removed meanwhile
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.parent, ignore_errors=True)
