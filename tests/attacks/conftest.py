"""Attacks: each file a story of who does what, and what it may gain. The house is that of tests/gateway."""

from __future__ import annotations

from ..gateway.conftest import House, MakeHouse, chat, make_house, make_local_house, store, tenant, until
from ..gateway.engine import Engine, Script

__all__ = [
    "Engine",
    "House",
    "MakeHouse",
    "Script",
    "chat",
    "make_house",
    "make_local_house",
    "store",
    "tenant",
    "until",
]
