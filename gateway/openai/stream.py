"""One engine's streamed answer while it is read: metered, and handed on as the client asked for it."""

from __future__ import annotations

from gateway.errors import UpstreamError
from gateway.openai.meter import Meter, visible
from gateway.openai.shape import Shape
from gateway.openai.sse import DONE, SseParser, events_of, frame

_LAST = frame(DONE)


class EventStream:
    """A reading (see endpoint.py) of events."""

    def __init__(self, prompts: int, wants_usage: bool, wants_continuous: bool) -> None:
        self.meter = Meter(prompts)
        self.began = False
        self.ended = False
        self.fault: UpstreamError | None = None
        self._wants_usage = wants_usage
        self._wants_continuous = wants_continuous
        self._parser = SseParser()
        self._shape = Shape(self.meter, wants_usage, wants_continuous)

    def feed(self, data: bytes) -> bytes:
        try:
            text = self._parser.whole(data)
        except ValueError as error:
            self.fault = UpstreamError("bad_answer", f"the engine sent {error}")
            return b""
        if not text or self.ended:
            return b""
        out = self._shape.take(text)
        return self._parsed(text) if out is None else out

    def close(self) -> None:
        """The connection ended. Without [DONE] that is well only after every choice has finished."""
        if not self.ended and not self.meter.complete():
            raise UpstreamError("closed", "the engine broke off its answer")
        self.ended = True

    def ending(self) -> bytes:
        return _LAST

    def _parsed(self, text: bytes) -> bytes:
        out = []
        try:
            for event in events_of(text):
                if event == DONE:
                    self.ended = True
                    break
                out.append(self._seen(event))
        except UpstreamError as error:
            self.fault = error
        return b"".join(out)

    def _seen(self, event: bytes) -> bytes:
        chunk = self.meter.read(event)
        self.began = True
        self._shape.learn(chunk, event)
        seen = visible(chunk, event, self._wants_usage, self._wants_continuous)
        return b"" if seen is None else frame(seen)
