"""Continuous batching (Orca, OSDI'22): a request joins and leaves the batch between two steps.

    step():  schedule     who starts, and the step's forward passes (schedule.py)
             run          the decoder
             postprocess  sample, detokenize, finish

Deterministic mode. A matrix product's rounding depends on its shape, so a row's result would change with the number
of rows that happen to share the step. Here a forward pass has one of two shapes: DECODE_ROWS decoding rows, or one
chunk of `prefill_chunk` rows of one prompt, each padded; chunks are cut at multiples of `prefill_chunk` from the
prompt's start; attention and adapters are computed one request at a time. What is left is the row's number within
the shape, and on that its result does not depend.

No clock, no thread, no IO: the owner calls `step` while `busy`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from backend.models.batch import Batch, Run
from backend.models.decoder import Decoder
from backend.models.kv_cache import KvCache
from backend.models.peft_format import Adapter
from backend.worker.config import WorkerSettings
from backend.worker.lora import AdapterStore
from backend.worker.memory.pages import PAGE
from backend.worker.sampling import SamplingParams, generator, sample
from backend.worker.schedule import DECODE_ROWS, Chunk, ForwardPass, Schedule, Sequence
from backend.worker.text import Decodes, TextStream

Sampler = Callable[[Tensor, SamplingParams, torch.Generator | None], int]


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt of at least one token, and how to continue it; `adapter` None is the base model."""

    id: str
    prompt: tuple[int, ...]
    params: SamplingParams
    adapter: Adapter | None = None


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


class _Generation(Sequence):
    """A request that is here: what the schedule knows of it, and the tokens and text that it has so far."""

    def __init__(self, request: Request, tokenizer: Decodes, device: torch.device) -> None:
        super().__init__(request.id, len(request.prompt), request.params.max_tokens)
        self.request = request
        self.tokens = list(request.prompt)
        self.text = TextStream(tokenizer, request.params.stop, request.params.min_tokens)
        self.source = generator(request.params, device)

    @property
    def produced(self) -> int:
        """Tokens of output so far."""
        return len(self.tokens) - self.prompt_tokens

    def run(self, tokens: int) -> Run:
        """The next `tokens` tokens to compute."""
        end = self.computed + tokens
        return Run(self.tokens[self.computed : end], self.computed, self.pages, self.request.adapter)


class Engine:
    """One model, its cache and its requests, all on the decoder's device. `sampler` picks a token from logits [vocab],
    float32, which it may change."""

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Decodes,
        adapters: AdapterStore,
        settings: WorkerSettings,
        sampler: Sampler = sample,
    ) -> None:
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._adapters = adapters
        self._sampler = sampler
        self._schedule: Schedule[_Generation] = Schedule(settings)
        self._cache = KvCache(decoder.spec, settings.pages, PAGE, decoder.dtype, decoder.device)
        self._eos = torch.tensor(sorted(decoder.spec.eos), dtype=torch.int64, device=decoder.device)
        self._counts: Counter[str] = Counter()

    @property
    def busy(self) -> bool:
        return self._schedule.busy

    def submit(self, request: Request) -> None:
        """Queue `request`. Raises Overloaded when max_running + max_waiting requests are already here."""
        self._schedule.submit(_Generation(request, self._tokenizer, self._decoder.device))

    def abort(self, request_id: str) -> None:
        """Drop the request, wherever it is; its pages are free at once. Nothing happens when it already ended."""
        if self._schedule.remove(request_id):
            self._counts["abort"] += 1

    def load_adapter(self, adapter: Adapter) -> None:
        """Raises BadRequest when the name is taken."""
        self._adapters.add(adapter, self._in_use())

    def unload_adapter(self, name: str) -> None:
        """Requests that run with it finish with it. Raises ModelNotFound."""
        self._adapters.remove(name, self._in_use())

    @torch.inference_mode()
    def step(self) -> list[Output]:
        """Compute one token of every request whose prompt is done. Returns what that produced."""
        outputs: list[Output] = []
        for forward in self._schedule.next_step():
            outputs += self._postprocess(forward.chunks, self._run(forward))
        return outputs

    def stats(self) -> Stats:
        counts = dict(self._counts)
        prompt, output = counts.pop("prompt", 0), counts.pop("output", 0)
        running, waiting = self._schedule.running, self._schedule.waiting
        return Stats(
            running=len(running),
            waiting=len(waiting),
            running_adapters=_adapter_names(running),
            waiting_adapters=_adapter_names(waiting),
            pages_used=self._schedule.pages_used,
            prompt_tokens=prompt,
            output_tokens=output,
            finished=counts,
        )

    def check_integrity(self) -> None:
        """Recompute the conservation laws. Raises PageError."""
        self._schedule.check_integrity()

    def _in_use(self) -> list[Adapter]:
        here = (*self._schedule.waiting, *self._schedule.running)
        return [generation.request.adapter for generation in here if generation.request.adapter is not None]

    def _run(self, forward: ForwardPass[_Generation]) -> Tensor:
        """Logits [chunks, vocab] after each chunk's last token."""
        runs = [generation.run(tokens) for generation, tokens in forward.chunks]
        if forward.rows is None:
            batch = Batch.mixed(runs, self._cache, self._adapters.pack)
        else:
            batch = Batch.fixed(runs, self._cache, self._adapters.pack, forward.rows, DECODE_ROWS)
        return self._decoder.forward(batch, self._cache)

    def _postprocess(self, chunks: list[Chunk[_Generation]], logits: Tensor) -> list[Output]:
        outputs = []
        for (generation, tokens), row in zip(chunks, logits, strict=True):
            self._counts["prompt"] += min(tokens, generation.prompt_left)
            generation.computed += tokens
            if not generation.prompt_left:
                outputs.append(self._advance(generation, self._choose(generation, row)))
        return outputs

    def _choose(self, generation: _Generation, logits: Tensor) -> int:
        params = generation.request.params
        if generation.produced < params.min_tokens:
            logits.index_fill_(0, self._eos, float("-inf"))
        return self._sampler(logits, params, generation.source)

    def _advance(self, generation: _Generation, token: int) -> Output:
        """The output that `token` brings; the generation ends where it must."""
        generation.tokens.append(token)
        self._counts["output"] += 1
        text, finish = self._say(generation, token)
        if finish is not None:
            self._schedule.remove(generation.id)
            self._counts[finish] += 1
        return Output(generation.id, text, generation.produced, finish)

    def _say(self, generation: _Generation, token: int) -> tuple[str, str | None]:
        """The text that `token` adds, and why the output ends with it: stop, length, or None where it goes on."""
        params = generation.request.params
        full = generation.produced == params.max_tokens
        ended = token in self._decoder.spec.eos and not params.ignore_eos
        text, stopped = ("", False) if ended else generation.text.push(token)
        if not stopped and (ended or full):
            rest = generation.text.flush()
            text, stopped = text + rest.text, rest.stopped or ended
        return text, "stop" if stopped else "length" if full else None


def _adapter_names(generations: Iterable[_Generation]) -> tuple[str, ...]:
    found = {generation.request.adapter.name for generation in generations if generation.request.adapter is not None}
    return tuple(sorted(found))
