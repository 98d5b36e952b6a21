"""The engine on a thread of its own, and the way to and from it for an asyncio program.

The thread alone touches the engine. Commands reach it through a queue and run between two steps; what a step
produced goes back to the event loop in one call. torch releases the interpreter lock inside its operations, so the
loop answers health checks and relays bytes while a step computes.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager

from backend.models.peft_format import Adapter
from backend.worker.engine import Engine, Output, Request, Stats
from backend.worker.errors import EngineDied, WorkerError

Mailbox = asyncio.Queue[Output | WorkerError]

log = logging.getLogger(__name__)


class _Command:
    """Work for the engine's thread, and where its result goes."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.done: Future[None] = Future()
        self._work = work

    def obey(self) -> None:
        if not self.done.set_running_or_notify_cancel():
            return
        try:
            self._work()
        except WorkerError as error:
            self.done.set_exception(error)
        else:
            self.done.set_result(None)

    def refuse(self, error: WorkerError) -> None:
        if self.done.set_running_or_notify_cancel():
            self.done.set_exception(error)


class EngineThread:
    """Runs `engine`. `start` it inside the event loop that calls the other methods."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._commands: queue.SimpleQueue[_Command | None] = queue.SimpleQueue()
        self._mailboxes: dict[str, Mailbox] = {}
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stats = engine.stats()
        self._alive = True
        self._idle = asyncio.Event()

    @property
    def alive(self) -> bool:
        return self._alive

    @property
    def stats(self) -> Stats:
        """As of the end of the last step: reading it never waits for the engine."""
        return self._stats

    @property
    def open_requests(self) -> int:
        return len(self._mailboxes)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the step it is in."""
        self._commands.put(None)
        self._thread.join()

    async def load_adapter(self, adapter: Adapter) -> None:
        """Raises BadRequest when its name is taken, EngineDied."""
        await self._call(lambda: self._engine.load_adapter(adapter))

    async def unload_adapter(self, name: str) -> None:
        """Raises ModelNotFound, EngineDied."""
        await self._call(lambda: self._engine.unload_adapter(name))

    async def idle(self) -> None:
        """Return when no request is open."""
        self._idle.clear() if self._mailboxes else self._idle.set()
        await self._idle.wait()

    @asynccontextmanager
    async def generate(self, request: Request) -> AsyncIterator[AsyncIterator[Output]]:
        """The outputs of `request` as they come. Leaving the block early aborts it. Raises Overloaded, EngineDied."""
        mailbox: Mailbox = asyncio.Queue()
        self._mailboxes[request.id] = mailbox
        try:
            await self._call(lambda: self._engine.submit(request))
            yield _outputs(mailbox)
        finally:
            del self._mailboxes[request.id]
            if not self._mailboxes:
                self._idle.set()
            self._commands.put(_Command(lambda: self._engine.abort(request.id)))

    async def _call(self, work: Callable[[], None]) -> None:
        """Run `work` on the engine's thread between two steps. Raises the WorkerError it raises, or EngineDied."""
        command = _Command(work)
        self._commands.put(command)
        await asyncio.wrap_future(command.done)

    def _work(self) -> None:
        try:
            while self._obey():
                outputs = self._engine.step() if self._engine.busy else []
                self._post(outputs, self._engine.stats())
        except Exception as error:
            log.exception("the engine stopped")
            died = EngineDied(f"the engine stopped: {error}; restart the worker")
            self._post(died, self._stats)
            while (command := self._commands.get()) is not None:
                command.refuse(died)

    def _obey(self) -> bool:
        """Run the commands that have come; wait for one when there is nothing else to do. False: time to end."""
        while True:
            try:
                command = self._commands.get(block=not self._engine.busy)
            except queue.Empty:
                return True
            if command is None:
                return False
            command.obey()
            if self._commands.empty():
                return True

    def _post(self, news: list[Output] | EngineDied, stats: Stats) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._deliver, news, stats)
        except RuntimeError:  # the loop is closed: nobody is left to hear it
            log.debug("news of the engine came after the loop had ended")

    def _deliver(self, news: list[Output] | EngineDied, stats: Stats) -> None:
        self._stats = stats
        if isinstance(news, EngineDied):
            self._alive = False
            for mailbox in self._mailboxes.values():
                mailbox.put_nowait(news)
            return
        for output in news:
            if output.request_id in self._mailboxes:
                self._mailboxes[output.request_id].put_nowait(output)


async def _outputs(mailbox: Mailbox) -> AsyncIterator[Output]:
    while True:
        news = await mailbox.get()
        if isinstance(news, WorkerError):
            raise news
        yield news
        if news.finish is not None:
            return
