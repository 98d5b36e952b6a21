"""What the base install leaves out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fairgate.errors import CommandError


@contextmanager
def needing(extra: str, who_needs: str) -> Iterator[None]:
    """Around the imports of a command. Raises CommandError that says what to install where one is not there."""
    try:
        yield
    except ModuleNotFoundError as missing:
        raise CommandError(
            f"{who_needs} {missing.name}, which the base install leaves out: pip install 'fairgate[{extra}]'"
        ) from None


def need_report() -> None:
    """Before anything runs whose results go into a report. Raises CommandError where pictures cannot be made."""
    with needing("report", "the report needs"):
        import loadgen.report.page  # noqa: F401
