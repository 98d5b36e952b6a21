"""Whoever logs waits for nobody: not for a pipe that nobody reads, not for one that is broken."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.log.lines import MOST_TEXT
from gateway.log.writer import LogWriter
from gateway.record import Record


class Pipe:
    """What is read from it until its writers are gone."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()

    def fill(self) -> int:
        """Nothing more can be written until it is read; returns how many bytes were."""
        os.set_blocking(self.writing, False)
        filled = 0
        while (written := self._write_some()) > 0:
            filled += written
        os.set_blocking(self.writing, True)
        return filled

    def _write_some(self) -> int:
        try:
            return os.write(self.writing, b"." * 1024)
        except BlockingIOError:
            return 0

    def read(self) -> bytes:
        with os.fdopen(os.dup(self.reading), "rb") as file:
            return file.read()

    def stop_reading(self) -> None:
        os.close(self.reading)
        self.reading = -1


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """The end for writing belongs to the log, which closes it."""
    pipe = Pipe()
    yield pipe
    if pipe.reading >= 0:
        os.close(pipe.reading)


def ended(log: LogWriter) -> None:
    """Waits for the thread: it has let go of its file."""
    log._thread.join(60)
    assert not log._thread.is_alive()


def numbered(number: int) -> bytes:
    return b"%d\n" % number


def record(model: str = "m") -> Record:
    record = Record("id", "/v1/chat/completions", 0.0)
    record.model = model
    return record


def test_all_that_was_put_is_written_in_order_when_it_ends(tmp_path: Path) -> None:
    file = tmp_path / "log"
    log = LogWriter(os.open(file, os.O_CREAT | os.O_WRONLY))
    for number in range(1000):
        log.put(numbered(number))
    log.close(60)
    ended(log)
    assert file.read_bytes() == b"".join(map(numbered, range(1000)))
    assert log.dropped == 0


def test_a_line_is_written_while_the_log_is_open(pipe: Pipe) -> None:
    log = LogWriter(pipe.writing, gather=0.0)
    for turn in range(200):  # the thread goes to sleep and is woken again and again: no line is forgotten
        log.put(numbered(turn))
        assert os.read(pipe.reading, 100) == numbered(turn)
    log.close(60)


def test_many_threads_lose_nothing(pipe: Pipe) -> None:
    log = LogWriter(pipe.writing, gather=0.0)
    threads = [threading.Thread(target=lambda: [log.put(numbered(number)) for number in range(500)]) for _ in range(4)]
    reader: list[bytes] = []
    reading = threading.Thread(target=lambda: reader.append(pipe.read()))
    for thread in (reading, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    log.close(60)
    reading.join()
    assert sorted(map(int, reader[0].split())) == sorted(list(range(500)) * 4)


def test_a_pipe_that_nobody_reads_holds_up_nobody_and_the_missing_are_told(pipe: Pipe) -> None:
    filled = pipe.fill()
    log = LogWriter(pipe.writing, most=100, gather=0.0)
    for number in range(1000):  # were it to wait, the test would not end
        log.put(numbered(number))
    dropped = log.dropped
    assert 1000 - 100 - 64 <= dropped <= 1000 - 100  # beside the queue, at most one batch is in the thread's hands
    log.close(0.0)  # gives up, and the thread goes on only because this process does
    lines = pipe.read()[filled:].splitlines()
    ended(log)
    assert lines[-1] == f"log: {dropped} lines were dropped: standard error did not take them in time".encode()
    written = list(map(int, lines[:-1]))
    assert len(written) + dropped == 1000
    assert written == sorted(written)


def test_a_broken_pipe_is_counted_and_survived(pipe: Pipe) -> None:
    pipe.stop_reading()
    log = LogWriter(pipe.writing, gather=0.0)
    for number in range(300):
        log.put(numbered(number))
    log.close(60)
    ended(log)
    assert log.dropped == 300


def test_a_pipe_that_another_process_made_non_blocking_gets_everything(pipe: Pipe) -> None:
    filled = pipe.fill()
    os.set_blocking(pipe.writing, False)
    log = LogWriter(pipe.writing, gather=0.0)
    for number in range(5000):
        log.put(numbered(number))
    log.close(0.0)
    assert pipe.read()[filled:] == b"".join(map(numbered, range(5000)))
    ended(log)
    assert log.dropped == 0


def test_the_file_is_closed_with_the_log(pipe: Pipe) -> None:
    log = LogWriter(pipe.writing)
    log.close(60)
    ended(log)
    with pytest.raises(OSError, match="Bad file descriptor"):
        fcntl.fcntl(pipe.writing, fcntl.F_GETFD)


def test_a_record_that_waits_keeps_no_long_text(pipe: Pipe) -> None:
    pipe.fill()
    log = LogWriter(pipe.writing, gather=0.0)
    long, short = record("m" * 1_000_000), record("m")
    log.put(long)
    log.put(short)
    assert len(long.model) <= MOST_TEXT + 1
    log.close(0.0)
    *_, first, second = pipe.read().lstrip(b".").splitlines()
    ended(log)
    assert [json.loads(line)["model"] for line in (first, second)] == ["m" * MOST_TEXT + "...", "m"]
