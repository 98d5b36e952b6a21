"""A client for benchmarks: streaming requests over kept connections, at little CPU, timed finely.

Sockets and `select`, without an event loop: asyncio's timers go in steps of a millisecond, which is what is measured.
"""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle
from math import inf
from select import select
from time import perf_counter
from typing import NamedTuple

from fairgate.errors import ProcessError
from loadgen.client.wire import COMPLETIONS

_OK = b"HTTP/1.1 200"
_END = b"\r\n0\r\n\r\n"
_WHOLE = b"data: [DONE]\n\n" + _END
PATIENCE_S = 30.0
SELECT_MOST = 1000  # select(2) takes descriptors below 1024


class Answer(NamedTuple):
    """Seconds on the clock of `perf_counter`: when a request was due, was sent, had its first byte, and its last. And
    how many events it had of those that were to be counted."""

    due: float
    sent: float
    first: float
    end: float
    events: int


def post(path: str, key: str, body: Mapping[str, object]) -> bytes:
    """A request as it goes over the wire, head and body."""
    data = json.dumps(body).encode()
    what = f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    return f"POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\n{what}\r\n".encode() + data


def completion_request(model: str, key: str, tenant: str, input_tokens: int, output_tokens: int) -> bytes:
    """A streaming request for the mock engine."""
    body = {
        "model": model,
        "prompt": "tok " * input_tokens,
        "user": tenant,
        "max_tokens": output_tokens,
        "stream": True,
    }
    return post(COMPLETIONS, key, body)


class _Wire:
    """One connection, one request at a time."""

    def __init__(self, port: int, event: bytes) -> None:
        self._event = event
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._got = b""
        self._due = self._sent = self._first = 0.0

    def fileno(self) -> int:
        return self.socket.fileno()

    def ask(self, request: bytes, due: float) -> None:
        self._got, self._due, self._first = b"", due, 0.0
        self._sent = perf_counter()
        self.socket.sendall(request)

    def hear(self) -> Answer | None:
        """What is there to read; the answer when that is its end. Raises ProcessError for any but a whole stream."""
        data = self.socket.recv(65536)
        now = perf_counter()
        self._first = self._first or now
        self._got += data
        if self._got.endswith(_END) and self._got.startswith(_OK):
            if self._got.endswith(_WHOLE):
                return Answer(self._due, self._sent, self._first, now, self._got.count(self._event))
        elif data and self._got.startswith(_OK[: len(self._got)]):
            return None
        raise ProcessError(f"the server answered {self._got[-300:]!r}; expected a stream that ends in [DONE]")


class LoadClient:
    """`connections` to the servers at `ports`, evenly. Requests are taken from `requests` in turn. `event`: what the
    events have in them that are to be counted. Close it after use. Raises ProcessError when an answer is not a whole
    stream."""

    def __init__(
        self, ports: Sequence[int], requests: Sequence[bytes], connections: int, event: bytes = b"data: {"
    ) -> None:
        if connections > SELECT_MOST:
            raise ProcessError(f"{connections} connections; expected at most {SELECT_MOST}")
        self._requests: Iterator[bytes] = cycle(requests)
        self._idle = [_Wire(port, event) for port, _ in zip(cycle(ports), range(connections), strict=False)]
        self._busy: set[_Wire] = set()

    def close(self) -> None:
        for wire in (*self._idle, *self._busy):
            wire.socket.close()

    def closed_loop(self, seconds: float = inf, requests: float = inf) -> list[Answer]:
        """Every connection asks again as soon as it is answered, for so long or until there were so many requests, one
        on each connection at the least; then all answers are awaited."""
        until, left = perf_counter() + seconds, requests - len(self._idle)
        answers: list[Answer] = []

        def again(answer: Answer) -> None:
            nonlocal left
            answers.append(answer)
            if answer.end < until and left > 0:
                left -= 1
                self._ask(answer.end)

        while self._idle:
            self._ask(perf_counter())
        self._drain(again)
        return answers

    def open_loop(self, rate: float, seconds: float, seed: int) -> list[Answer]:
        """Poisson arrivals, `rate` a second: each is sent when it is due, or as soon as a connection is idle."""
        random_ = random.Random(seed)
        start = due = perf_counter()
        answers: list[Answer] = []
        while (due := due + random_.expovariate(rate)) < start + seconds:
            while (wait := due - perf_counter()) > 0:
                self._hear(wait, answers.append)
            while not self._idle:
                self._hear(PATIENCE_S, answers.append)
            self._ask(due)
        self._drain(answers.append)
        return answers

    def _ask(self, due: float) -> None:
        wire = self._idle.pop()
        wire.ask(next(self._requests), due)
        self._busy.add(wire)

    def _hear(self, timeout: float, heard: Callable[[Answer], None]) -> None:
        """What comes within `timeout` seconds. Raises ProcessError when nothing came for long."""
        ready = select(self._busy, (), (), timeout)[0]
        if not ready and timeout >= PATIENCE_S:
            raise ProcessError(f"{len(self._busy)} requests had no answer for {timeout:.0f} s")
        for wire in ready:
            if (answer := wire.hear()) is not None:
                self._busy.remove(wire)
                self._idle.append(wire)
                heard(answer)

    def _drain(self, heard: Callable[[Answer], None]) -> None:
        while self._busy:
            self._hear(PATIENCE_S, heard)
