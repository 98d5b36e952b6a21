"""How a long run tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float], None]  # (what is going on, part done 0..1)


def quiet(what: str, part: float) -> None:
    """Progress for nobody."""
