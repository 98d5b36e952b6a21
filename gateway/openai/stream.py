"""One engine's answer as metered events."""

from __future__ import annotations

from gateway.errors import UpstreamError
from gateway.openai.meter import Chunk, Meter, visible
from gateway.openai.sse import DONE, SseParser, frame
from gateway.ports import Answer

Event = tuple[Chunk, bytes]

MOST_WHOLE_BYTES = 2**20


class EventStream:
    """Batches of (parsed chunk, its bytes), one batch per read from the engine; `meter` has counted what came out."""

    def __init__(self, answer: Answer, prompts: int = 1) -> None:
        self.meter = Meter(prompts)
        self._answer = answer
        self._parser = SseParser()
        self._error: UpstreamError | None = None
        self._ended = False

    async def read(self) -> list[Event]:
        """The next batch, empty at the end of the stream. Raises UpstreamError when the stream breaks off or holds an
        error event, after everything that came before it was handed out."""
        while not self._ended:
            if self._error is not None:
                raise self._error
            data = await self._answer.read()
            batch = self._parse(data)
            if not data:
                self._end()
            if batch:
                return batch
        return []

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


def shown(batch: list[Event], wants_usage: bool, wants_continuous: bool) -> bytes:
    """The events of a batch as the client asked for them."""
    out = [
        frame(seen)
        for chunk, data in batch
        if (seen := visible(chunk, data, wants_usage, wants_continuous)) is not None
    ]
    return b"".join(out)


async def read_whole(answer: Answer) -> bytes:
    """The body of an answer that is no stream, cut off where it is larger than an error can reasonably be."""
    parts, size = [], 0
    while (part := await answer.read()) and size < MOST_WHOLE_BYTES:
        parts.append(part)
        size += len(part)
    return b"".join(parts)
