"""One worker as an engine: its dialect, and what was found out about it while it was used."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.engines.pace import Pace
from gateway.engines.plain import PLAIN
from gateway.engines.registry import HEALTH_PATHS, dialect_of

_CONTINUOUS = "continuous_usage_stats"
LEAST_USAGE: Mapping[str, bool] = {"include_usage": True}
"""What every engine can be asked for."""
_CONTINUOUS_USAGE: Mapping[str, bool] = {**LEAST_USAGE, _CONTINUOUS: True}


class Engine:
    """One for each worker, shared by those who send it requests and those who probe it."""

    def __init__(self) -> None:
        self.dialect = PLAIN
        self.pace = Pace()
        self._refuses_continuous_usage = False

    def hear(self, metrics: str) -> None:
        """It showed its metrics. Where they say nothing, what was known of it stands."""
        if (found := dialect_of(metrics)) is not PLAIN:
            self.dialect = found

    def health_paths(self) -> tuple[str, ...]:
        """Where it may say that it is well; more than one until its dialect is known."""
        return HEALTH_PATHS if self.dialect is PLAIN else (self.dialect.health_path,)

    def usage_options(self) -> Mapping[str, bool]:
        """The stream options that make it report usage: while it streams, if it can, else in the end."""
        continuous = self.dialect.continuous_usage and not self._refuses_continuous_usage
        return _CONTINUOUS_USAGE if continuous else LEAST_USAGE

    def may_mind_usage(self, asked: Mapping[str, bool], status: int, body: bytes) -> bool:
        """Was a request refused, maybe for the usage options it was `asked` with? Then it is to be asked again with
        `LEAST_USAGE`. Nothing is remembered yet: what an engine says of a refusal repeats what the client wrote, and a
        client may write anything, `"temperature":"continuous_usage_stats"`."""
        return status in (400, 422) and _CONTINUOUS in asked and _CONTINUOUS.encode() in body

    def minds_usage(self) -> None:
        """It took with `LEAST_USAGE` what it had refused with more: it is never asked for more again."""
        self._refuses_continuous_usage = True
