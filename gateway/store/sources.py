"""The Lua of the shared machine, put together: one file for each thing it knows, one script for each way to call it."""

from __future__ import annotations

from importlib.resources import files

_MACHINE = ("state", "cost", "room", "shares", "predict", "ledger", "settings", "reap")
_OPERATIONS = ("submit", "charge", "finish", "cancel", "requeue", "pick", "worker", "join")


def apply_source() -> str:
    """One batch of a replica's operations, then picks: see apply.lua."""
    return _joined(*_MACHINE, *_OPERATIONS, "apply")


def inspect_source() -> str:
    """A pool's state, for people, metrics and tests: see inspect.lua."""
    return _joined(*_MACHINE, "inspect")


def quota_source() -> str:
    """The sliding window of a tenant's requests a minute: see quota.lua."""
    return _joined("quota")


def _joined(*names: str) -> str:
    folder = files("gateway.store").joinpath("lua")
    return "\n".join(folder.joinpath(f"{name}.lua").read_text(encoding="utf-8") for name in names)
