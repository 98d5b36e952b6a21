"""How the mock engine writes its service log (`loadgen.service_log`)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from loadgen.mock.engine import EngineSettings, Event, Generation
from loadgen.service_log import Peaks, peak_line, start_line, work_line


class ServiceLogWriter:
    """Appends to a log file; each `write` is one write to the system. Raises OSError."""

    def __init__(self, path: Path, settings: EngineSettings, now: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
        self._file = path.open("ab", buffering=0)
        self._arrivals: list[str] = []
        start = start_line(now, settings.model, settings.slots, settings.kv_tokens, settings.step_s)
        self._file.write(b"\n" * torn + start.encode())

    def arrived(self, now: float, generation: Generation) -> None:
        """Goes out with the next `write`."""
        self._arrivals.append(_line(now, Event("arrival", generation, generation.input_tokens)))

    def write(self, now: float, events: Iterable[Event], peaks: Peaks | None = None) -> None:
        """What one step did, and its peaks where they rose."""
        lines = [*self._arrivals, *(_line(now, event) for event in events)]
        self._arrivals.clear()
        if peaks is not None:
            lines.append(peak_line(now, peaks))
        if lines:
            self._file.write("".join(lines).encode())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _line(now: float, event: Event) -> str:
    return work_line(now, event.kind, event.generation.tenant, event.generation.id, event.tokens)
