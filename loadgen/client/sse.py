"""Server-sent events as bytes in, payloads out: what an OpenAI-compatible stream consists of.

The gateway has a parser of its own (`gateway.openai.sse`), and the two stay apart: what is measured here are the
gateway's answers, and a misreading that judge and judged had in common would show in no figure.
"""

from __future__ import annotations

from collections.abc import Iterator

DONE = b"[DONE]"


class TooLarge(ValueError):
    """One event exceeds the limit: the peer does not speak this protocol."""


class SseParser:
    """Cuts a stream of bytes into event payloads, wherever the chunks of the transport break.

    Lines end with LF or CRLF; several `data:` lines of one event join with LF; comments and other fields are
    skipped (WHATWG HTML, section 9.2.6). An event that is still open when the stream ends is dropped.
    """

    def __init__(self, limit: int = 1 << 20) -> None:
        self._limit = limit
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The payloads that `chunk` completes, in order. Raises TooLarge for an event of more than `limit` bytes."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                payload, self._data = b"\n".join(self._data), []
                yield payload
        if len(self._rest) + sum(map(len, self._data)) > self._limit:
            raise TooLarge(f"an event of more than {self._limit} bytes")
