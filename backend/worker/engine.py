"""Continuous batching (Orca, OSDI'22): a request joins and leaves the batch between two steps.

    step():  admit    waiting requests, first come first served, while a slot and all their pages are free
             plan     the step's forward passes: every running request decodes one token, prompts in chunks
             run      the decoder
             settle   sample, detokenize, finish

A request reserves the pages of its prompt and `max_tokens` before it starts: the cache is never overcommitted, so
nothing is preempted and nothing is computed twice. The price is pages that lie reserved for output that never comes.

Deterministic mode. A matrix product's rounding depends on its shape, so a row's result would change with the number
of rows that happen to share the step. Here a forward pass has one of two shapes: DECODE_ROWS decoding rows, or one
chunk of `prefill_chunk` rows of one prompt, each padded; chunks are cut at multiples of `prefill_chunk` from the
prompt's start; attention and adapters are computed one request at a time. What is left is the row's number within
the shape, and on that its result does not depend.

No clock, no thread, no IO: the owner calls `step` while `busy`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from backend.errors import Overloaded
from backend.models.batch import Batch, Run
from backend.models.decoder import Decoder
from backend.models.lora import AdapterStore
from backend.models.pages import KvCache, PageAllocator, PageError
from backend.models.peft_format import Adapter
from backend.worker.config import WorkerConfig
from backend.worker.sampling import SamplingParams, generator, sample
from backend.worker.text import Decodes, TextStream

DECODE_ROWS = 8  # of a deterministic forward pass

Sampler = Callable[[Tensor, SamplingParams, torch.Generator | None], int]


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt of at least one token, and how to continue it; `adapter` None is the base model."""

    id: str
    prompt: tuple[int, ...]
    params: SamplingParams
    adapter: Adapter | None = None

    @property
    def most_tokens(self) -> int:
        return len(self.prompt) + self.params.max_tokens


class Output(NamedTuple):
    """One token of a request: its text (may be empty), all tokens so far, and why it ended: stop, length or None."""

    request_id: str
    text: str
    tokens: int
    finish: str | None


class Stats(NamedTuple):
    """Of the engine at one moment; the last three count from its start."""

    running: int
    waiting: int
    running_adapters: tuple[str, ...]
    waiting_adapters: tuple[str, ...]
    pages_used: int
    prompt_tokens: int
    output_tokens: int
    finished: dict[str, int]


class _Sequence:
    """A request that is running. The keys and values of its first `computed` tokens are in the cache."""

    def __init__(self, request: Request, pages: Sequence[int], text: TextStream) -> None:
        self.request = request
        self.pages = pages
        self.text = text
        self.source = generator(request.params)
        self.tokens = list(request.prompt)
        self.computed = 0

    @property
    def prompt_left(self) -> int:
        return max(0, len(self.request.prompt) - self.computed)

    @property
    def produced(self) -> int:
        return len(self.tokens) - len(self.request.prompt)

    def run(self, tokens: int) -> Run:
        end = self.computed + tokens
        return Run(self.tokens[self.computed : end], self.computed, self.pages, self.request.adapter)


Due = tuple[_Sequence, int]  # a sequence and how many of its tokens a forward pass computes


class Engine:
    """One model, its cache and its requests. `sampler` picks a token from logits [vocab]."""

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Decodes,
        adapters: AdapterStore,
        config: WorkerConfig,
        sampler: Sampler = sample,
    ) -> None:
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._adapters = adapters
        self._config = config
        self._sampler = sampler
        self._pages = PageAllocator(config.pages)
        self._cache = KvCache(decoder.spec, config.pages, decoder.dtype)
        self._waiting: deque[Request] = deque()
        self._running: dict[str, _Sequence] = {}
        self._counts: Counter[str] = Counter()

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._running)

    def submit(self, request: Request) -> None:
        """Queue `request`. Raises Overloaded when max_running + max_waiting requests are already here."""
        room = self._config.max_running + self._config.max_waiting
        if len(self._running) + len(self._waiting) >= room:
            raise Overloaded(f"{room} requests are running or waiting, which is all this worker takes; retry later")
        self._waiting.append(request)

    def abort(self, request_id: str) -> None:
        """Drop the request, wherever it is; its pages are free at once. Nothing happens when it already ended."""
        if request_id in self._running:
            self._leave(self._running[request_id], "abort")
        else:
            self._waiting = deque(request for request in self._waiting if request.id != request_id)

    def load_adapter(self, adapter: Adapter) -> None:
        """Raises AdapterError when the name is taken."""
        self._adapters.add(adapter, self._in_use())

    def unload_adapter(self, name: str) -> None:
        """Requests that run with it finish with it. Raises ModelNotFound."""
        self._adapters.remove(name, self._in_use())

    @torch.inference_mode()
    def step(self) -> list[Output]:
        """Compute one token of every request whose prompt is done. Returns what that produced."""
        self._admit()
        outputs: list[Output] = []
        for due, batch in self._plan():
            outputs += self._settle(due, self._decoder.forward(batch, self._cache))
        return outputs

    def stats(self) -> Stats:
        counts = dict(self._counts)
        prompt, output = counts.pop("prompt", 0), counts.pop("output", 0)
        running = [sequence.request for sequence in self._running.values()]
        return Stats(
            running=len(running),
            waiting=len(self._waiting),
            running_adapters=_adapter_names(running),
            waiting_adapters=_adapter_names(self._waiting),
            pages_used=self._pages.used,
            prompt_tokens=prompt,
            output_tokens=output,
            finished=counts,
        )

    def check_integrity(self) -> None:
        """Recompute the conservation laws. Raises PageError."""
        self._pages.check_integrity()
        held = sum(len(sequence.pages) for sequence in self._running.values())
        if held != self._pages.used:
            raise PageError(f"running requests hold {held} pages, but {self._pages.used} are taken")

    def _in_use(self) -> list[Adapter]:
        requests = [*self._waiting, *(sequence.request for sequence in self._running.values())]
        return [request.adapter for request in requests if request.adapter is not None]

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._config.max_running:
            request = self._waiting[0]
            pages = self._pages.reserve(request.id, request.most_tokens)
            if pages is None:
                return
            self._waiting.popleft()
            text = TextStream(self._tokenizer, request.params.stop, request.params.min_tokens)
            self._running[request.id] = _Sequence(request, pages, text)

    def _plan(self) -> list[tuple[list[Due], Batch]]:
        decoding = [(sequence, 1) for sequence in self._running.values() if not sequence.prompt_left]
        chunks = self._chunks()
        if not self._config.deterministic:
            due = [*decoding, *chunks]
            return [(due, Batch.mixed(_runs(due), self._adapters.pack))] if due else []
        passes = [(tile, DECODE_ROWS) for tile in _tiles(decoding)]
        passes += [([chunk], self._config.prefill_chunk) for chunk in chunks]
        return [(due, Batch.fixed(_runs(due), self._adapters.pack, rows, DECODE_ROWS)) for due, rows in passes]

    def _chunks(self) -> list[Due]:
        """Up to `prefill_chunk` prompt tokens, of the requests that came first; deterministic: of one request."""
        chunks: list[Due] = []
        left = self._config.prefill_chunk
        for sequence in self._running.values():
            if sequence.prompt_left and left:
                chunks.append((sequence, min(sequence.prompt_left, left)))
                left = 0 if self._config.deterministic else left - chunks[-1][1]
        return chunks

    def _settle(self, due: Sequence[Due], logits: Tensor) -> list[Output]:
        outputs = []
        for (sequence, tokens), row in zip(due, logits, strict=True):
            self._counts["prompt"] += min(tokens, sequence.prompt_left)
            sequence.computed += tokens
            if not sequence.prompt_left:
                outputs.append(self._advance(sequence, self._choose(sequence, row)))
        return outputs

    def _choose(self, sequence: _Sequence, logits: Tensor) -> int:
        if sequence.produced < sequence.request.params.min_tokens:
            logits[list(self._decoder.spec.eos)] = float("-inf")
        return self._sampler(logits, sequence.request.params, sequence.source)

    def _advance(self, sequence: _Sequence, token: int) -> Output:
        params = sequence.request.params
        sequence.tokens.append(token)
        self._counts["output"] += 1
        ended = token in self._decoder.spec.eos and not params.ignore_eos
        text, stopped = ("", False) if ended else sequence.text.push(token)
        if not stopped and (ended or sequence.produced == params.max_tokens):
            rest = sequence.text.flush()
            text, stopped = text + rest.text, rest.stopped or ended
        finish = "stop" if stopped else "length" if sequence.produced == params.max_tokens else None
        if finish is not None:
            self._leave(sequence, finish)
        return Output(sequence.request.id, text, sequence.produced, finish)

    def _leave(self, sequence: _Sequence, reason: str) -> None:
        del self._running[sequence.request.id]
        self._pages.release(sequence.request.id)
        self._counts[reason] += 1


def _adapter_names(requests: Iterable[Request]) -> tuple[str, ...]:
    return tuple(sorted({request.adapter.name for request in requests if request.adapter is not None}))


def _runs(due: Sequence[Due]) -> list[Run]:
    return [sequence.run(tokens) for sequence, tokens in due]


def _tiles(due: Sequence[Due]) -> Iterator[list[Due]]:
    for start in range(0, len(due), DECODE_ROWS):
        yield list(due[start : start + DECODE_ROWS])
