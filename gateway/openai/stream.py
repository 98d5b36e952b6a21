"""One engine's answer as metered events."""

from __future__ import annotations

from typing import Protocol

from gateway.errors import UpstreamError
from gateway.openai.meter import Chunk, Meter, visible
from gateway.openai.sse import DONE, SseParser, frame
from gateway.ports import Answer

Event = tuple[Chunk, bytes]
"""A parsed chunk, and its bytes."""


class Form(Protocol):
    """The form in which a client gets what an engine streams."""

    def take(self, batch: list[Event]) -> bytes:
        """What to send of these events now."""

    def ending(self) -> bytes:
        """What to send when the engine is done."""


class Events:
    """As events, each as the client asked for it."""

    def __init__(self, wants_usage: bool, wants_continuous: bool) -> None:
        self._wants_usage = wants_usage
        self._wants_continuous = wants_continuous

    def take(self, batch: list[Event]) -> bytes:
        out = [
            frame(seen)
            for chunk, data in batch
            if (seen := visible(chunk, data, self._wants_usage, self._wants_continuous)) is not None
        ]
        return b"".join(out)

    def ending(self) -> bytes:
        return frame(DONE)


class EventStream:
    """A metered answer (see endpoint.py): one batch of events per read from the engine; `meter` has counted what came
    out."""

    def __init__(self, answer: Answer, meter: Meter, form: Form) -> None:
        self.meter = meter
        self._form = form
        self._answer = answer
        self._parser = SseParser()
        self._error: UpstreamError | None = None
        self._ended = False

    async def read(self) -> bytes | None:
        while not self._ended:
            if self._error is not None:
                raise self._error
            data = await self._answer.read()
            batch = self._parse(data)
            if not data:
                self._end()
            if batch:
                return self._form.take(batch)
        return None

    def ending(self) -> bytes:
        return self._form.ending()

    def _parse(self, data: bytes) -> list[Event]:
        batch: list[Event] = []
        try:
            for event in self._parser.feed(data):
                if event == DONE:
                    self._ended = True
                    break
                batch.append((self.meter.read(event), event))
        except UpstreamError as error:
            self._error = error
        except ValueError as error:
            self._error = UpstreamError("bad_answer", f"the engine sent {error}")
        if self._error is not None and not batch:
            raise self._error
        return batch

    def _end(self) -> None:
        """The connection ended. Without [DONE] that is well only after every choice has finished."""
        if not self._ended and not self.meter.complete():
            raise UpstreamError("closed", "the engine broke off its answer")
        self._ended = True
