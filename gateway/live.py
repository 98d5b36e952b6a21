"""The requests that are being served right now, as the shutdown sees them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any


class Live:
    """`aborting` tells a request that it was cancelled by `abort` and not by its client."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._emptied = asyncio.Event()
        self.aborting = False

    def began(self) -> asyncio.Task[Any]:
        """The running task serves a request, until it says that it has `ended`."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        return task

    def ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._emptied.set()

    async def idle(self, patience: float) -> bool:
        """Wait until nothing is served, `patience` seconds at most; whether that came about."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self._tasks:
                    self._emptied.clear()
                    await self._emptied.wait()
        return not self._tasks

    async def abort(self) -> None:
        """End everything with an error that the client can read."""
        self.aborting = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
