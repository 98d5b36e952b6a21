"""A kept connection belongs to the request that has it now, whatever happens to the one before."""

import asyncio
from contextlib import suppress

import pytest

from gateway.config.schema import Timeouts, WorkerConfig
from gateway.http.upstream import HttpUpstream
from gateway.ports import Patience


class Reader:
    """A receiver that tells when the answer is over."""

    begun = False

    def __init__(self, over=lambda: None):
        self.body, self.eof = b"", over

    def sent(self) -> None: ...

    def head(self, status):
        pass

    def data(self, data):
        self.body += data
        return False


async def _answer(reader, writer):
    with suppress(asyncio.IncompleteReadError):
        while True:
            await reader.readuntil(b"{}")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    writer.close()


@pytest.mark.parametrize("cancelled_first", [True, False])
async def test_a_request_cancelled_when_its_answer_is_over_leaves_the_connection_to_the_next(cancelled_first):
    """Its task has yet to run when the next request takes the connection, or has just run."""
    async with await asyncio.start_server(_answer, "127.0.0.1", 0) as engine, asyncio.timeout(10):
        url = f"http://127.0.0.1:{engine.sockets[0].getsockname()[1]}"
        upstream = HttpUpstream([WorkerConfig(url=url)], Timeouts())

        def post(receiver):
            asked = upstream.post(url, "/", b"{}", "id", receiver, Patience(5, 5), repeatable=False)
            tasks.append(asyncio.ensure_future(asked))

        def over():
            if cancelled_first:
                tasks[0].cancel()
            post(second)
            if not cancelled_first:
                asyncio.get_running_loop().call_soon(tasks[0].cancel)

        tasks, second = [], Reader()
        post(Reader(over))
        with suppress(asyncio.CancelledError):
            await tasks[0]
        await tasks[1]
        assert second.body == b"ok"
        await upstream.close()
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)
