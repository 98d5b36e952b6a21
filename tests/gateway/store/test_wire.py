"""A bare connection: answers come in the order of the commands, each exactly once, or the reason why there is none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from gateway.store.errors import StoreError
from gateway.store.wire import Wire, command

RAW = (
    b"$3\r\n\xc3\xa9x\r\n",
    b":42\r\n",
    b"*3\r\n$2\r\nok\r\n*1\r\n:7\r\n$-1\r\n",
    b"-OOM no\r\n",
    b"*-1\r\n",
    b"+OK\r\n",
)
MEANT: list[Any] = ["éx", 42, ["ok", [7], None], "OOM no", None, "OK"]
LONG = 3600.0


class Server:
    """Says what it is given once it has heard a byte, then closes (`stay`: does not)."""

    def __init__(self, *pieces: bytes, stay: bool = False) -> None:
        self._pieces = pieces
        self._stay = stay
        self.gone = asyncio.Event()

    @asynccontextmanager
    async def wire(self) -> AsyncIterator[Wire]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            wire, loop = Wire(), asyncio.get_running_loop()
            port = server.sockets[0].getsockname()[1]
            await loop.create_connection(lambda: cast(asyncio.Protocol, wire), "127.0.0.1", port)
            yield wire
            wire.close()
            await self.gone.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(1)
            for piece in self._pieces:
                writer.write(piece)
                await writer.drain()
            while self._stay and await reader.read(2**16):
                pass
        except ConnectionError:
            pass
        finally:
            writer.close()
            self.gone.set()


class Heard:
    """What came, by command: `of(n)` is told what the n-th was answered. `done` when `expected` were."""

    def __init__(self, expected: int) -> None:
        self.answers: list[tuple[int, Any]] = []
        self.done = asyncio.Event()
        self._expected = expected

    def of(self, number: int) -> Callable[[Any], None]:
        return lambda answer: self._heard(number, answer)

    def _heard(self, number: int, answer: Any) -> None:
        self.answers.append((number, answer))
        if len(self.answers) == self._expected:
            self.done.set()

    async def all(self) -> list[Any]:
        async with asyncio.timeout(60):
            await self.done.wait()
        assert [number for number, _ in self.answers] == list(range(self._expected)), "not in order, or not once"
        return [answer for _, answer in self.answers]


def send_all(wire: Wire, heard: Heard, within: float = LONG) -> None:
    for number in range(len(RAW)):
        wire.send(command("GET", number), within, heard.of(number))


def meaning(answer: Any) -> Any:
    return str(answer) if isinstance(answer, StoreError) else answer


async def test_answers_cut_at_every_byte() -> None:
    raw = b"".join(RAW)
    for cut in range(1, len(raw)):
        async with Server(raw[:cut], raw[cut:], stay=True).wire() as wire:
            send_all(wire, heard := Heard(len(RAW)))
            assert [meaning(answer) for answer in await heard.all()] == MEANT


async def test_a_connection_that_is_lost_after_every_byte() -> None:
    """Whose answer had come whole has it; all others hear that there will be none."""
    raw = b"".join(RAW)
    for cut in range(len(raw)):
        whole = next(n for n in range(len(RAW) + 1) if len(b"".join(RAW[: n + 1])) > cut)
        async with Server(raw[:cut]).wire() as wire:
            send_all(wire, heard := Heard(len(RAW)))
            answers = await heard.all()
            assert [meaning(answer) for answer in answers[:whole]] == MEANT[:whole]
            assert all(isinstance(answer, StoreError) for answer in answers[whole:])
            assert wire.closed


async def test_the_first_is_late_while_others_are_on_their_way() -> None:
    """All hear of it, though the others would have had time: what comes now cannot be told apart."""
    async with Server(stay=True).wire() as wire:
        heard = Heard(3)
        for number, within in enumerate((0.02, LONG, LONG)):
            wire.send(command("PING"), within, heard.of(number))
        assert [str(answer) for answer in await heard.all()] == ["no answer in time"] * 3
        assert wire.closed


async def test_a_shorter_time_counts_from_when_it_is_the_oldest() -> None:
    async with Server(b"+OK\r\n", stay=True).wire() as wire:
        heard = Heard(2)
        wire.send(command("PING"), LONG, heard.of(0))
        wire.send(command("PING"), 0.02, heard.of(1))
        assert [meaning(answer) for answer in await heard.all()] == ["OK", "no answer in time"]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"HTTP/1.1 400\r\n", "the server does not speak RESP"),
        (b"+A\r\n+B\r\n", "the server said more than it was asked"),
    ],
)
async def test_what_is_not_an_answer_ends_the_connection(said: bytes, reason: str) -> None:
    async with Server(said, stay=True).wire() as wire:
        first = asyncio.ensure_future(wire.ask(command("PING"), LONG))
        await asyncio.wait((first,))
        assert meaning(first.exception() or first.result()) in ("A", reason)
        assert wire.closed
        with pytest.raises(StoreError, match="the connection is closed"):
            await wire.ask(command("PING"), LONG)


async def test_who_is_told_may_close_the_connection() -> None:
    """In the middle of a read that holds more answers: nobody is told twice."""
    async with Server(b"".join(RAW), stay=True).wire() as wire:
        heard = Heard(len(RAW))
        wire.send(command("PING"), LONG, lambda answer: (heard.of(0)(answer), wire.close("enough"))[0])
        for number in range(1, len(RAW)):
            wire.send(command("PING"), LONG, heard.of(number))
        assert [meaning(answer) for answer in await heard.all()] == ["éx"] + ["enough"] * (len(RAW) - 1)


async def test_an_answer_to_who_was_cancelled_is_not_anothers() -> None:
    async with Server(b"".join(RAW[:2]), stay=True).wire() as wire:
        first = asyncio.ensure_future(wire.ask(command("GET", 1), LONG))
        await asyncio.sleep(0)
        first.cancel()
        assert await wire.ask(command("GET", 2), LONG) == 42
        assert first.cancelled()
