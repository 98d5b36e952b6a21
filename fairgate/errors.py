"""What a user of the command line is told in one message, with exit status 2 and without a stack trace."""

from __future__ import annotations


class FairgateError(Exception):
    """The message is for the user."""


class CommandError(FairgateError):
    """An option cannot be used, or a part that the command needs is not installed."""


class ProcessError(FairgateError):
    """A program did not start, or ended by itself, or did not answer as it should."""
