"""What the load generator refuses: one error, whose message is for the user."""

from __future__ import annotations


class LoadgenError(ValueError):
    """Something the user gave cannot be used; the message says what, where, and what was expected."""
