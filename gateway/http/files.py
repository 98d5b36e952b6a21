"""How many connections the system's limit on open files leaves room for."""

from __future__ import annotations

import logging
import resource
from typing import Final

KEPT_BACK: Final = 64
"""Files for all that is not a client or its worker: logs, the store, probes, listeners, the event loop's own."""
ENOUGH: Final = 1 << 20
"""More is not asked for: some systems name billions, and the kernel reserves a table for what is set."""


logger = logging.getLogger("gateway")


def places(wanted: int | None) -> int:
    """Clients that may be connected: as many as are `wanted`, or as there is room for; never more than that."""
    files = raise_limit()
    most = most_connections(files)
    if wanted is not None and wanted > most:
        why = f"{files} open files are allowed (ulimit -n), and {files - most} of them are for workers and the rest"
        logger.warning("gateway: limits.max_connections: %d are not possible, it is %d: %s", wanted, most, why)
    return most if wanted is None else min(wanted, most)


def raise_limit() -> int:
    """Ask for as many open files as are allowed; how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError):  # macOS allows less than it says
            pass
    return ENOUGH if soft == resource.RLIM_INFINITY else soft


def most_connections(files: int) -> int:
    """Clients that may be connected with so many open files. Each may have a request, and so a worker's connection:
    with half of the files for either, a worker can always be reached."""
    return max(1, (files - KEPT_BACK) // 2)
