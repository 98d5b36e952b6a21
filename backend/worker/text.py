"""From tokens to text, piece by piece: whole characters only, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

REPLACEMENT = "\ufffd"  # what a tokenizer writes for bytes that are no character, or not one yet


class Decodes(Protocol):
    def decode(self, ids: Sequence[int], skip_special_tokens: bool = ...) -> str: ...


class Piece(NamedTuple):
    """New text, and whether a stop string ended the output."""

    text: str
    stopped: bool


class Detokenizer:
    """Text of a growing token list. The pieces, with the last from `flush`, join to the decoding of the whole list.

    A character may span tokens, so text that ends in a replacement character waits for the next token. Only the
    tokens since the last whole piece are decoded again, with the piece before them for context (some tokenizers
    strip a leading space).
    """

    def __init__(self, tokenizer: Decodes) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []
        self._pending: list[int] = []

    def push(self, token: int) -> str:
        self._pending.append(token)
        text = self._new_text()
        if not text or text.endswith(REPLACEMENT):
            return ""
        self._context, self._pending = self._pending, []
        return text

    def flush(self) -> str:
        """What still waits; a cut character shows as a replacement character, as in the decoding of the whole."""
        text = self._new_text()
        self._pending = []
        return text

    def _new_text(self) -> str:
        known = self._tokenizer.decode(self._context, skip_special_tokens=True)
        return self._tokenizer.decode(self._context + self._pending, skip_special_tokens=True)[len(known) :]


class StopFinder:
    """Cuts a stream of text before the first stop string, holding back what may turn out to begin one."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = stop
        self._held = ""

    def push(self, text: str) -> Piece:
        text = self._held + text
        found = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self._held = ""
            return Piece(text[: min(found)], True)
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return Piece(text[: len(text) - keep], False)

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held


class TextStream:
    """A request's output text. Stop strings count from the token `min_tokens` on."""

    def __init__(self, tokenizer: Decodes, stop: Sequence[str], min_tokens: int) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._stop = StopFinder(stop)
        self._unchecked = min_tokens

    def push(self, token: int) -> Piece:
        text = self._detokenizer.push(token)
        if self._unchecked > 0:
            self._unchecked -= 1
            return Piece(text, False)
        return self._stop.push(text)

    def flush(self) -> Piece:
        """The rest, when the output ends for another reason than a stop string."""
        piece = self._stop.push(self._detokenizer.flush())
        return piece if piece.stopped else Piece(piece.text + self._stop.flush(), False)


def _overlap(text: str, stop: str) -> int:
    """The most characters at the end of `text` that begin `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
