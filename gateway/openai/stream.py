"""One engine's streamed answer while it is read: metered, and handed on as the client asked for it."""

from __future__ import annotations

from gateway.errors import EngineRefused, UpstreamError
from gateway.openai.meter import Chunk, Meter, to_json, visible
from gateway.openai.shape import Shape
from gateway.openai.sse import DONE, SseParser, data_of, frame

_LAST = frame(DONE)


class EventStream:
    """A reading (see endpoint.py) of events."""

    def __init__(self, prompts: int, wants_usage: bool, wants_continuous: bool) -> None:
        self.meter = Meter(prompts)
        self.began = False
        self.ended = False
        self.fault: UpstreamError | EngineRefused | None = None
        self._wants_usage = wants_usage
        self._wants_continuous = wants_continuous
        self._usage: Chunk | None = None
        self._showed_usage = wants_continuous or not wants_usage
        self._parser = SseParser()
        self._shape = Shape(self.meter, wants_usage, wants_continuous)

    def feed(self, data: bytes) -> bytes:
        try:
            text = self._parser.whole(data)
        except ValueError as error:
            self.fault = UpstreamError("bad_answer", f"the engine sent {error}")
            return b""
        out: list[bytes] = []
        position, size = 0, len(text)
        try:
            while position < size and not self.ended:
                position = self._shape.take(text, position, out)
                if position < size:
                    position = self._parse_one(text, position, out)
        except (UpstreamError, EngineRefused) as error:
            self.fault = error
        except RecursionError:
            self.fault = UpstreamError("bad_answer", "the engine sent an event that is nested too deeply")
        return out[0] if len(out) == 1 else b"".join(out)

    def close(self) -> None:
        """The connection ended. Without [DONE] that is well only after every choice has finished."""
        if not self.ended and not self.meter.complete():
            raise UpstreamError("closed", "the engine broke off its answer")
        self.ended = True

    def ending(self) -> bytes:
        """Some engines (DeepSeek, Mistral) report usage beside the last choice and nowhere else, where a client that
        asked for usage does not see it (see `visible`): it gets it in an event of its own, as OpenAI sends it."""
        if self._usage is None or self._showed_usage:
            return _LAST
        return frame(to_json(self._usage)) + _LAST

    def _parse_one(self, text: bytes, start: int, out: list[bytes]) -> int:
        """Read the event at `start`; where the next begins."""
        end = text.find(b"\n\n", start)
        if end < 0:  # an empty line too many
            return len(text)
        event = data_of(text[start:end])
        if event == DONE:
            self.ended = True
        elif event is not None:
            chunk = self.meter.read(event)
            self.began = True
            self._shape.learn(chunk, event)
            if not self._showed_usage and chunk.get("usage"):
                self._note_usage(chunk)
            if (seen := visible(chunk, event, self._wants_usage, self._wants_continuous)) is not None:
                out.append(frame(seen))
        return end + 2

    def _note_usage(self, chunk: Chunk) -> None:
        self._showed_usage = not chunk.get("choices")
        self._usage = {**chunk, "choices": []}
