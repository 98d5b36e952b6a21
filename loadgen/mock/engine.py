"""A continuous-batching engine on a clock, without a model: what stands behind gateways when fairness is measured.

Every step gives one token to every request whose prefill is done. Prefills run one after the other beside the decode
steps. A request is taken in order of arrival as soon as a slot is free and the tokens held (input and produced so far)
leave room for its input and one token; what does not fit waits inside, as in vLLM. Nothing is preempted: outputs may
grow past the KV tokens. A gateway that controls its room makes neither happen, and the peaks say whether it did.

This is not the simulated engine (`loadgen.simulator.engine`), and the two share nothing on purpose. That one follows
the paper's artifact: it knows true output lengths, admits by what will fit to the end, and has a time model of its own.
This one runs on a clock, knows only what it was asked, and admits by what fits now, as engines in service do.

Input tokens are the words of the prompt, or of all messages together (a chat template adds nothing), or the number of
token ids. The output is exactly `max_tokens` times "x".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from loadgen.errors import LoadgenError
from loadgen.service_log import Peaks


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How large and how fast a mock engine is."""

    slots: int
    kv_tokens: int
    step_s: float = 0.02
    prefill_s_per_token: float = 0.0
    model: str = "mock"

    def __post_init__(self) -> None:
        least = {"slots": 1, "kv_tokens": 2, "step_s": 1e-4, "prefill_s_per_token": 0}
        for name, minimum in least.items():
            if not minimum <= getattr(self, name) < inf:
                raise LoadgenError(f"mock engine: {name} is {getattr(self, name)!r}; expected at least {minimum}")
        if not self.model:
            raise LoadgenError("mock engine: model is empty; expected the name that clients ask for")


@dataclass(slots=True, eq=False)
class Generation:
    """One request inside the engine. `on_token` is for its owner to call, with the tokens produced so far."""

    id: str
    tenant: str
    input_tokens: int
    max_tokens: int
    on_token: Callable[[int], None] = field(default=lambda produced: None, repr=False)
    produced: int = 0
    ready_s: float = inf
    prefilled: bool = False
    aborted: bool = False

    def abort(self) -> None:
        """Nobody wants it any more: the next step drops it."""
        self.aborted = True

    @property
    def held(self) -> int:
        return self.input_tokens + self.produced


class Event(NamedTuple):
    """What a step did. `kind`: input (prefill done), output, end, abort; the last two with all tokens produced."""

    kind: str
    generation: Generation
    tokens: int


class BatchEngine:
    """The batch and its queue. Time comes in as seconds on the clock of the caller."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.waiting: deque[Generation] = deque()
        self.running: list[Generation] = []
        self.peaks = Peaks()
        self.peaks_rose = False  # in the last step
        self._prefill_free_s = -inf

    def submit(self, generation: Generation) -> None:
        self.waiting.append(generation)

    def tokens_held(self) -> int:
        return sum(generation.held for generation in self.running)

    def step(self, now: float) -> list[Event]:
        """Drop what was aborted, admit, produce a token each. Returns what happened, in order."""
        events = self._drop_aborted()
        self._admit(now)
        for generation in self.running:
            if generation.ready_s <= now:
                self._produce(generation, events)
        self._note_peaks()
        self.running = [generation for generation in self.running if generation.produced < generation.max_tokens]
        return events

    def _drop_aborted(self) -> list[Event]:
        dropped = [generation for generation in (*self.running, *self.waiting) if generation.aborted]
        if dropped:
            self.running = [generation for generation in self.running if not generation.aborted]
            self.waiting = deque(generation for generation in self.waiting if not generation.aborted)
        return [Event("abort", generation, generation.produced) for generation in dropped]

    def _admit(self, now: float) -> None:
        held = self.tokens_held()
        while self.waiting and len(self.running) < self.settings.slots:
            held += self.waiting[0].input_tokens + 1
            if held > self.settings.kv_tokens:
                return
            self._start(self.waiting.popleft(), now)

    def _start(self, generation: Generation, now: float) -> None:
        took = generation.input_tokens * self.settings.prefill_s_per_token
        generation.ready_s = self._prefill_free_s = max(self._prefill_free_s, now) + took
        self.running.append(generation)

    def _produce(self, generation: Generation, events: list[Event]) -> None:
        if not generation.prefilled:
            generation.prefilled = True
            events.append(Event("input", generation, generation.input_tokens))
        generation.produced += 1
        events.append(Event("output", generation, 1))
        if generation.produced == generation.max_tokens:
            events.append(Event("end", generation, generation.produced))

    def _note_peaks(self) -> None:
        in_flight = (*self.running, *self.waiting)
        seen = Peaks(
            running=len(self.running),
            in_flight=len(in_flight),
            tokens_held=sum(generation.held for generation in in_flight),
            tokens_reserved=sum(generation.input_tokens + generation.max_tokens for generation in in_flight),
        )
        before, self.peaks = self.peaks, self.peaks.highest(seen)
        self.peaks_rose = self.peaks != before
