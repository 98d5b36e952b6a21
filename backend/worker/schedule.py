"""What the next step computes: who starts, which prompts advance, on which pages. In numbers, without torch.

Requests start first come first served, while a slot and all their pages are free (one that does not fit holds back
those behind it); every request that runs computes one token a step, and prompts are computed in chunks beside that.

A request reserves the pages of its prompt and `max_tokens` before it starts: the cache is never overcommitted, so
nothing is preempted and nothing is computed twice. The price is pages that lie reserved for output that never comes.

The deterministic mode wants forward passes of two shapes only (engine.py says why): DECODE_ROWS decoding rows, or one
chunk of `prefill_chunk` rows of one prompt; chunks are cut at multiples of `prefill_chunk` from the prompt's start.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from backend.worker.config import WorkerSettings
from backend.worker.errors import Overloaded
from backend.worker.memory.pages import PageAllocator, PageError

DECODE_ROWS = 8  # of a deterministic forward pass


@dataclass(slots=True, eq=False)
class Sequence:
    """A request in numbers of tokens: `prompt_tokens`, at least one, and at most `max_tokens` of output. While it runs
    it holds `pages`; the keys and values of its first `computed` tokens are in them."""

    id: str
    prompt_tokens: int
    max_tokens: int
    pages: list[int] = field(default_factory=list)
    computed: int = 0

    @property
    def most_tokens(self) -> int:
        return self.prompt_tokens + self.max_tokens

    @property
    def prompt_left(self) -> int:
        """Prompt tokens that are not computed yet; 0: it decodes."""
        return max(0, self.prompt_tokens - self.computed)


S = TypeVar("S", bound=Sequence)


class Chunk(NamedTuple, Generic[S]):
    """The next `tokens` tokens of a sequence: a part of its prompt, or the one token that it decodes."""

    sequence: S
    tokens: int


class ForwardPass(NamedTuple, Generic[S]):
    """Chunks that are computed together, a row a token, padded to `rows` rows; None: without padding."""

    chunks: list[Chunk[S]]
    rows: int | None = None


class Schedule(Generic[S]):
    """The sequences of one engine, waiting and running. After each step the engine adds what was computed to every
    sequence's `computed`, and removes those that ended."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._pages = PageAllocator(settings.pages)
        self._waiting: deque[S] = deque()
        self._running: dict[str, S] = {}

    @property
    def running(self) -> tuple[S, ...]:
        """In the order in which they started."""
        return tuple(self._running.values())

    @property
    def waiting(self) -> tuple[S, ...]:
        """In the order in which they came."""
        return tuple(self._waiting)

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._running)

    @property
    def pages_used(self) -> int:
        return self._pages.used

    def submit(self, sequence: S) -> None:
        """Queue `sequence`, whose tokens must fit the cache when it is empty. Raises Overloaded when max_running +
        max_waiting sequences are already here."""
        room = self._settings.max_running + self._settings.max_waiting
        if len(self._running) + len(self._waiting) >= room:
            raise Overloaded(f"{room} requests are running or waiting, which is all this worker takes; retry later")
        self._waiting.append(sequence)

    def remove(self, sequence_id: str) -> bool:
        """Forget the sequence, wherever it is; its pages are free at once. Returns whether it was running."""
        if self._running.pop(sequence_id, None) is not None:
            self._pages.release(sequence_id)
            return True
        self._waiting = deque(sequence for sequence in self._waiting if sequence.id != sequence_id)
        return False

    def next_step(self) -> list[ForwardPass[S]]:
        """Start who can start, and say what to compute: one token of every sequence that decodes, and up to
        `prefill_chunk` tokens of the prompts that started first. Empty when there is nothing to do."""
        self._admit()
        decoding = [Chunk(sequence, 1) for sequence in self._running.values() if not sequence.prompt_left]
        prompts = self._prompt_chunks()
        if self._settings.deterministic:
            tiles = [ForwardPass(tile, DECODE_ROWS) for tile in _tiles(decoding)]
            return tiles + [ForwardPass([chunk], self._settings.prefill_chunk) for chunk in prompts]
        return [ForwardPass(decoding + prompts)] if decoding or prompts else []

    def check_integrity(self) -> None:
        """Recompute the conservation laws of pages. Raises PageError."""
        self._pages.check_integrity()
        held = sorted(page for sequence in self._running.values() for page in sequence.pages)
        if held != self._pages.held:
            raise PageError(f"running requests hold the pages {held}, but {self._pages.held} are taken")
        for sequence in self._running.values():
            if len(sequence.pages) != PageAllocator.needed(sequence.most_tokens):
                raise PageError(f"{sequence.id} holds {len(sequence.pages)} pages for {sequence.most_tokens} tokens")

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._settings.max_running:
            sequence = self._waiting[0]
            pages = self._pages.reserve(sequence.id, sequence.most_tokens)
            if pages is None:
                return
            sequence.pages = pages
            self._running[sequence.id] = self._waiting.popleft()

    def _prompt_chunks(self) -> list[Chunk[S]]:
        """Up to `prefill_chunk` prompt tokens, of the sequences that started first; deterministic: of one of them."""
        chunks: list[Chunk[S]] = []
        left = self._settings.prefill_chunk
        for sequence in self._running.values():
            if sequence.prompt_left and left:
                chunks.append(Chunk(sequence, min(sequence.prompt_left, left)))
                left = 0 if self._settings.deterministic else left - chunks[-1].tokens
        return chunks


def _tiles(chunks: list[Chunk[S]]) -> Iterator[list[Chunk[S]]]:
    for start in range(0, len(chunks), DECODE_ROWS):
        yield chunks[start : start + DECODE_ROWS]
