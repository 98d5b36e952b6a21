"""The state machine of a pool as a library of functions: what lua/ holds, in the order in which it is put together."""

from __future__ import annotations

from functools import cache

from gateway.store.library import Library, library_of

_RECORDS = ("state", "cost", "room", "shares", "predict", "ledger", "settings", "reap")
_OPERATIONS = ("submit", "charge", "finish", "cancel", "requeue", "pick", "worker", "join")
_ENTRIES = ("apply", "inspect")


@cache
def machine() -> Library:
    """Entries `apply` and `inspect`: see apply.lua and inspect.lua for arguments and replies."""
    return library_of("gateway.pools.shared", "fairgate", (*_RECORDS, *_OPERATIONS, *_ENTRIES), _ENTRIES)
