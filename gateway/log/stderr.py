"""Where the log goes: standard error."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.log.lines import LineFormatter
from gateway.log.writer import LogWriter


@contextmanager
def log_to_stderr() -> Iterator[LogWriter]:
    """All that is logged as `gateway` goes to standard error until the block ends, and the access log can."""
    log = LogWriter(_standard_error())
    handler = LineHandler(log)
    logger = logging.getLogger("gateway")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield log
    finally:
        logger.removeHandler(handler)
        log.close()


def _standard_error() -> int:
    """A descriptor of our own. Were it the number 2, and closed by whoever started us, then the next connection would
    get that number, and the log lines."""
    return os.dup(sys.stderr.fileno()) if sys.stderr is not None else os.open(os.devnull, os.O_WRONLY)


class LineHandler(logging.Handler):
    def __init__(self, log: LogWriter) -> None:
        super().__init__()
        self._log = log
        self.setFormatter(LineFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._log.put(self.format(record).encode() + b"\n")
        except Exception:  # a message and arguments that do not go together: say so, and go on
            self.handleError(record)
