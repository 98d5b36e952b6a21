"""The Lua of the shared machine, put together: one file for each thing it knows, one library for the server.

A library of functions (Redis 7, Valkey) and not a script: a script defines all its functions anew at each call, which
took a third of the time of one. Its name carries a digest of its text, so that gateways of different versions can share
a server while one of them is rolled out.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import NamedTuple

_MACHINE = ("state", "cost", "room", "shares", "predict", "ledger", "settings", "reap")
_OPERATIONS = ("submit", "charge", "finish", "cancel", "requeue", "pick", "worker", "join")
_ENTRIES = ("apply", "inspect")


class Library(NamedTuple):
    """`source` is what FUNCTION LOAD takes; `function(entry)` the name to FCALL: `apply`, `inspect`."""

    source: str
    version: str

    def function(self, entry: str) -> str:
        return f"fairgate_{entry}_{self.version}"


@cache
def machine() -> Library:
    """The state machine of a pool: see apply.lua and inspect.lua for arguments and replies."""
    return _library("gateway.pools.shared", "fairgate", (*_MACHINE, *_OPERATIONS, *_ENTRIES), _ENTRIES)


@cache
def quota() -> Library:
    """Requests per minute of a tenant: see quota.lua."""
    return _library("gateway.tenants", "fairgate_quota", ("quota",), ("quota",))


def _library(package: str, name: str, parts: tuple[str, ...], entries: tuple[str, ...]) -> Library:
    folder = files(package).joinpath("lua")
    text = "\n".join(folder.joinpath(f"{part}.lua").read_text(encoding="utf-8") for part in parts)
    version = sha256(text.encode()).hexdigest()[:12]
    registered = "\n".join(f"redis.register_function('fairgate_{entry}_{version}', entry.{entry})" for entry in entries)
    return Library(f"#!lua name={name}_{version}\n{text}\n{registered}\n", version)
