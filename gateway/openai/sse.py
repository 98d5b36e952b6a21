"""Server-sent events: bytes in, whole events out (WHATWG HTML, section 9.2.6).

Only `data` matters here: comments and other fields are dropped, several data lines of one event are joined by a line
feed. Lines end in LF, CRLF or CR, and an event may be cut anywhere between two TCP chunks.

The load generator has a parser of its own (`loadgen.client.sse`), and the two stay apart: it measures what this one
lets through, and a misreading that judge and judged had in common would show in no figure.
"""

from __future__ import annotations

DONE = b"[DONE]"
_BOM = b"\xef\xbb\xbf"


class SseParser:
    """Feed it chunks in order. Raises ValueError when one event grows beyond `max_event_bytes`."""

    def __init__(self, max_event_bytes: int = 16 * 1024 * 1024) -> None:
        self._max = max_event_bytes
        self._tail = b""
        self._searched = 0  # of the tail: no event ends before it
        self._after_cr = False
        self._started = False

    def whole(self, chunk: bytes) -> bytes:
        """The text of all events that `chunk` completes, each with the empty line that ends it. Lines end in LF."""
        if self._after_cr or b"\r" in chunk:
            chunk = self._with_line_feeds(chunk)
        text = self._tail + chunk if self._tail else chunk
        if not self._started:
            if len(text) < len(_BOM) and _BOM.startswith(text):
                self._tail = text
                return b""
            self._started = True
            text = text.removeprefix(_BOM)
        end = text.rfind(b"\n\n", self._searched)
        if end < 0:
            self._keep(text)
            return b""
        self._keep(text[end + 2 :])
        return text[: end + 2]

    def _keep(self, tail: bytes) -> None:
        if len(tail) > self._max:
            raise ValueError(f"an event of more than {self._max} bytes")
        self._tail = tail
        self._searched = max(0, len(tail) - 1)

    def _with_line_feeds(self, chunk: bytes) -> bytes:
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return chunk


def events_of(text: bytes) -> list[bytes]:
    """The data of each event in the text of whole events."""
    return [data for block in text.split(b"\n\n") if (data := data_of(block)) is not None]


def data_of(block: bytes) -> bytes | None:
    """Of one event, less the empty line that ends it; None: it has no data."""
    if block.startswith(b"data: ") and b"\n" not in block:
        return block[6:]
    lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def frame(data: bytes) -> bytes:
    """One event as it goes over the wire."""
    if b"\n" in data:
        data = data.replace(b"\n", b"\ndata: ")
    return b"data: " + data + b"\n\n"
