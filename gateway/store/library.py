"""Lua as a library of functions for the server, put together from a package's files: one for each thing it knows.

A library of functions (Redis 7, Valkey) and not a script: a script defines all its functions anew at each call, which
took a third of the time of one. Its name carries a digest of its text, so that gateways of different versions can share
a server while one of them is rolled out.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from importlib.resources import files
from typing import NamedTuple


class Library(NamedTuple):
    """`source` is what FUNCTION LOAD takes; `function(entry)` the name to FCALL. `version` is a digest of the Lua."""

    source: str
    version: str

    def function(self, entry: str) -> str:
        return f"fairgate_{entry}_{self.version}"


def library_of(package: str, name: str, parts: Sequence[str], entries: Sequence[str]) -> Library:
    """The files `lua/<part>.lua` of a package, one after the other, so that each sees the locals of those before it.
    `entries` are the functions, in the Lua table `entry`, that can be called from outside."""
    folder = files(package).joinpath("lua")
    text = "\n".join(folder.joinpath(f"{part}.lua").read_text(encoding="utf-8") for part in parts)
    version = sha256(text.encode()).hexdigest()[:12]
    registered = "\n".join(f"redis.register_function('fairgate_{entry}_{version}', entry.{entry})" for entry in entries)
    return Library(f"#!lua name={name}_{version}\n{text}\n{registered}\n", version)
