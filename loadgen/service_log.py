"""The service log of engines: JSON lines that say which tenant received which tokens when.

    {"t": 1700000000.02, "event": "start", "model": "mock", "slots": 16, "kv_tokens": 8192, "step_s": 0.02}
    {"t": ..., "event": "output", "tenant": "a", "id": "7f3a.12-4-1", "tokens": 1}
    {"t": ..., "event": "peak", "running": 16, "in_flight": 16, "tokens_held": 900, "tokens_reserved": 4096}

`t` in seconds of Unix time. What happens to a request: `arrival` (with its input tokens), `input` (its prefill is
done), `output`, and `end` or `abort` (with all output tokens). What a step did, and what arrived since the one before,
is one write, made before any of its tokens is sent: of what a killed engine sent, nothing is missing. An engine that
starts again on the same file begins a new line with a new `start`.

This format is all that an engine and its judge share: the mock engine writes it (`loadgen.mock.log`), the judge adds
it up (`loadgen.judge.engines`), and neither knows the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from loadgen.errors import LoadgenError

WORK = ("arrival", "input", "output", "end", "abort")


class ServiceLogError(LoadgenError):
    """A service log that cannot be used; the message names file and line."""


class Start(NamedTuple):
    """An engine began to write. Its size, and the seconds of one of its steps."""

    t: float
    slots: int
    kv_tokens: int
    step_s: float


class Served(NamedTuple):
    """One line of work. `engine` is the log it stands in."""

    t: float
    engine: Path
    event: str
    tenant: str
    id: str
    tokens: int


class Peaks(NamedTuple):
    """The most seen in any one step. In flight is what runs and what waits inside: above `slots`, or with more tokens
    than `kv_tokens`, whoever sends the requests has put more on the engine than it takes. `tokens_held` counts input
    and output so far, `tokens_reserved` input and `max_tokens`, of all in flight."""

    running: int = 0
    in_flight: int = 0
    tokens_held: int = 0
    tokens_reserved: int = 0

    def highest(self, other: Peaks) -> Peaks:
        """The higher of both, one by one."""
        return Peaks(*map(max, self, other))


# -- written -------------------------------------------------------------------------------------------------------


def start_line(now: float, model: str, slots: int, kv_tokens: int, step_s: float) -> str:
    sizes = {"model": model, "slots": slots, "kv_tokens": kv_tokens, "step_s": step_s}
    return json.dumps({"t": now, "event": "start", **sizes}) + "\n"


def work_line(now: float, event: str, tenant: str, name: str, tokens: int) -> str:
    """`event` is one of WORK, `name` the id of the request."""
    who = f'"tenant": {json.dumps(tenant)}, "id": {json.dumps(name)}'
    return f'{{"t": {now!r}, "event": "{event}", {who}, "tokens": {tokens}}}\n'


def peak_line(now: float, peaks: Peaks) -> str:
    return json.dumps({"t": now, "event": "peak", **peaks._asdict()}) + "\n"


# -- read ----------------------------------------------------------------------------------------------------------


def read_service_log(path: Path) -> Iterator[Start | Served | Peaks]:
    """The lines of one log. A line that a kill tore is left out.

    Raises ServiceLogError for any other that is malformed, and for a file that cannot be read or does not begin with
    a start.
    """
    started = False
    for number, line in _lines(path):
        where = f"service log {path}, line {number}"
        entry = _entry(line, path, where)
        if not (started or isinstance(entry, Start)):
            raise ServiceLogError(f"{where}: {line['event']!r} before any start; expected a start first")
        started = True
        yield entry


def _lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        raw = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise ServiceLogError(f"service log {path}: cannot be read ({error})") from None
    parsed = [_parse(line) for line in raw]
    lines = []
    for i, line in enumerate(parsed):
        torn = i + 1 == len(parsed) or (parsed[i + 1] or {}).get("event") == "start"
        if line is None and not torn:
            raise ServiceLogError(f"service log {path}, line {i + 1}: {raw[i][:80]!r}; expected a JSON object")
        if line is not None:
            lines.append((i + 1, line))
    return lines


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and line.endswith(b"\n") else None


def _entry(line: dict[str, Any], path: Path, where: str) -> Start | Served | Peaks:
    try:
        t, event = float(line["t"]), str(line["event"])
        if event == "start":
            return Start(t, line["slots"], line["kv_tokens"], line["step_s"])
        if event == "peak":
            return Peaks(**{name: value for name, value in line.items() if name not in ("t", "event")})
        if event in WORK:
            return Served(t, path, event, str(line["tenant"]), str(line["id"]), int(line["tokens"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ServiceLogError(f"{where}: {error}; expected the members that its event has") from None
    raise ServiceLogError(f"{where}: event {event!r}; expected start, peak, {', '.join(WORK)}")
