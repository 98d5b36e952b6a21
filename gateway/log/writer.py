"""The log is written off the path: whoever has a line puts it into a queue, and a thread writes.

Nothing here waits for standard error. A pipe that nobody reads blocks the thread alone; the queue then fills, and what
does not fit is dropped and counted. Nor does the thread hold up the event loop: it formats a few lines at a time and
then pauses. Without, it keeps the interpreter for 5 ms where there is one core, for a write alone lets nobody else run.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from contextlib import suppress

from gateway.log.lines import MOST_TEXT, access_line
from gateway.record import Record

MOST_LINES = 32_768
"""Lines that wait, each below 2 KB or so: 1.5 s of 20,000 requests a second, while whoever reads the log takes a break.
"""
GATHER = 0.05
"""Seconds from a first line to the write, so that a busy gateway wakes the thread 20 times a second."""
BATCH = 64
"""Lines in one write: 0.2 ms in which the thread keeps the interpreter to itself."""
PAUSE = 0.001
"""Seconds between two writes: together with the above, some 50,000 lines a second."""


class LogWriter:
    """Takes records of requests that are over and finished lines, from any thread. `fd` is closed with it.

    A line is written at most `gather` seconds later; a process that is killed loses what is younger.
    """

    def __init__(self, fd: int, *, most: int = MOST_LINES, gather: float = GATHER) -> None:
        self._fd = fd
        self._most = most
        self._gather = gather
        self._queue: deque[Record | bytes] = deque()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._overflowed = 0
        self._failed = 0
        self._told = 0
        # a daemon, for a process must be able to end while the thread hangs in a write
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that found the queue full, and lines that could not be written."""
        return self._overflowed + self._failed  # two numbers, since two threads count and `+=` is not atomic

    def put(self, item: Record | bytes) -> None:
        """Write the access line of this request, or this line. Never waits, raises nothing."""
        queue = self._queue
        if len(queue) >= self._most:
            self._overflowed += 1
            return
        if isinstance(item, Record) and len(item.model) > MOST_TEXT:
            item.model = item.model[: MOST_TEXT + 1]  # one more than the line shows, so that it shows the cut
        queue.append(item)
        if len(queue) == 1:  # else the thread is awake and goes on until nothing is left
            self._wake.set()

    def close(self, patience: float = 2.0) -> None:
        """Write what is queued and end. After `patience` seconds without success the rest is given up."""
        self._stopping.set()
        self._wake.set()
        self._thread.join(patience)

    # -- the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait()
            self._stopping.wait(self._gather)
            self._wake.clear()
            self._write_all()
        os.close(self._fd)

    def _write_all(self) -> None:
        while lines := self._next_lines():
            self._write_or_count(lines)
            self._stopping.wait(PAUSE)
        self._tell()

    def _next_lines(self) -> list[bytes]:
        items = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
        return [item if isinstance(item, bytes) else access_line(item) for item in items]

    def _write_or_count(self, lines: list[bytes]) -> None:
        try:
            self._write(b"".join(lines))
        except OSError:  # nobody reads any more, or the disk is full; the latter can pass
            self._failed += len(lines)

    def _tell(self) -> None:
        """Say how many lines are missing, once others get through again."""
        dropped = self.dropped
        if dropped > self._told:
            missing = f"log: {dropped - self._told} lines were dropped: standard error did not take them in time\n"
            with suppress(OSError):
                self._write(missing.encode())
                self._told = dropped

    def _write(self, data: bytes) -> None:
        """All of it. Raises OSError."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:  # another process that has the same pipe made it so
                self._wait_for_room()

    def _wait_for_room(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        poll.poll()
