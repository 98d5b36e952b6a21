"""A model of a continuous-batching engine: how long its steps take, and what fits into it.

Fit rule of the VTC artifact, whose clients send the true output length: with every running request and the
candidate as (tokens so far, tokens left), sorted by tokens left, the pool must hold what is there when each one
ends:  max over i of  left_i * (i + 1) + sum of so_far up to i  <  pool.

Room that one request gives back another may grow into, so the n_in + n_out of what runs can add up to more than the
pool, and the bound, whose M is the pool, is proven only where they do not. Among 200 random workloads on a pool of 200
tokens one passed 2U by a sixth; where the whole sum is reserved, as the gateway does, the worst stayed 8 % below.

This is not the mock engine (`loadgen.mock.engine`), which runs on a clock behind real gateways, does not know how long
answers will be, and admits by what fits now: two laws, and nothing shared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from math import isfinite
from typing import Any

from fairness import Capacity, LawError, Ticket
from loadgen.errors import LoadgenError

MIN_DECODE_STEPS = 10  # between two admissions, while something runs
IDLE_SLEEP_S = 0.010  # between two looks at the queue, while nothing runs


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """A prefill takes `prefill_ms_per_token` per input token, a decode step `decode_ms` + `decode_ms_per_seq` per
    running request. `pool_tokens` is the KV cache, `max_running` the most requests in the batch."""

    prefill_ms_per_token: float
    decode_ms: float
    decode_ms_per_seq: float
    pool_tokens: int
    max_running: int

    def __post_init__(self) -> None:
        for name in ("prefill_ms_per_token", "decode_ms", "decode_ms_per_seq"):
            value = getattr(self, name)
            if not (isfinite(value) and value >= 0):
                raise LoadgenError(f"engine: {name} is {value!r}; expected milliseconds, at least 0")
        if self.decode_ms + self.decode_ms_per_seq <= 0:
            raise LoadgenError("engine: decode_ms and decode_ms_per_seq are both 0; a decode step must take time")
        for name, least in (("pool_tokens", 3), ("max_running", 1)):
            if getattr(self, name) < least:
                raise LoadgenError(f"engine: {name} is {getattr(self, name)}; expected at least {least}")

    @property
    def minibatch_tokens(self) -> int:
        """The most input tokens prefilled together."""
        return max(self.pool_tokens // 6, 3072)

    def prefill_s(self, input_tokens: int) -> float:
        return self.prefill_ms_per_token * input_tokens / 1000

    def decode_s(self, running: int) -> float:
        return (self.decode_ms + self.decode_ms_per_seq * running) / 1000

    def too_large(self, input_tokens: int, output_tokens: int) -> bool:
        return input_tokens + output_tokens >= self.pool_tokens


ENGINES = {
    # Fitted to the published runs of S-LoRA with Llama-2-7B on an A10G.
    "a10g-7b": EngineConfig(0.213, 33.5 * 1.12, 0.19 * 1.12, 10_000, 1_000),
    # Llama-2-13B on an A100 of 80 GB with the pools of section 5.4. Prefill: the A10G's, scaled by arithmetic at the
    # same utilisation. Decode: least squares over the time that the authors' recorded runs took (three lengths per
    # pool; off by at most 1 % and 6 %). One profile per pool, for each step there reads a cache about as full as it.
    "a100-13b": EngineConfig(0.157, 36.9, 0.035, 35_000, 1_000),
    "a100-13b-65k": EngineConfig(0.157, 44.6, 0.13, 65_000, 1_000),
}


def parse_engine(spec: str) -> EngineConfig:
    """`a10g-7b`, `a100-13b`, or `key=value,...` over the first; `a100-13b,pool_tokens=65000` over the second.

    Raises LoadgenError that names the part it does not understand and the keys it knows.
    """
    known = [field.name for field in fields(EngineConfig)]
    config = ENGINES["a10g-7b"]
    for position, part in enumerate(spec.split(",")):
        name, equals, value = (text.strip() for text in part.partition("="))
        if position == 0 and not equals and name in ENGINES:
            config = ENGINES[name]
        elif not equals or name not in known:
            raise LoadgenError(
                f"engine {spec!r}: {part!r} is unknown; expected one of {', '.join(ENGINES)}, or key=value with a key "
                f"of {', '.join(known)}"
            )
        else:
            config = _with(spec, config, name, value)
    return config


def _with(spec: str, config: EngineConfig, name: str, value: str) -> EngineConfig:
    whole = name in ("pool_tokens", "max_running")
    change: dict[str, Any] = {}
    try:
        change[name] = int(value) if whole else float(value)
    except ValueError:
        kind = "a whole number" if whole else "a number"
        raise LoadgenError(f"engine {spec!r}: {name} is {value!r}; expected {kind}") from None
    return replace(config, **change)


def fits_pool(so_far_and_left: Iterable[tuple[int, int]], pool_tokens: int) -> bool:
    """The fit rule for requests given as (tokens so far, tokens left)."""
    held = 0
    ordered = sorted(so_far_and_left, key=lambda entry: -entry[1])
    for ahead, (so_far, left) in enumerate(ordered, 1):
        held += so_far
        if left * ahead + held >= pool_tokens:
            return False
    return True


class EngineRoom:
    """The scheduler's view of the engine (`fairness.Room`): true output lengths are known, nothing overruns.

    A prediction above the true length is reserved as predicted: what is charged ahead is set aside, as the law
    wants it.
    """

    def __init__(self, config: EngineConfig, output_tokens: Mapping[Ticket, int]) -> None:
        self._config = config
        self._output_tokens = output_tokens
        self._running: dict[Ticket, None] = {}
        self._minibatch = 0

    def begin_minibatch(self) -> None:
        """The next placements form one prefill."""
        self._minibatch = 0

    def capacity(self) -> Capacity:
        """The pool is never quite filled: the largest request, or prediction, leaves one token free."""
        return Capacity(self._config.pool_tokens, self._config.max_running, self._config.pool_tokens - 1)

    def place(self, ticket: Ticket) -> str | None:
        if not self._fits(ticket):
            return None
        self.take(ticket, "engine")
        return "engine"

    def take(self, ticket: Ticket, worker_id: str) -> None:
        self._running[ticket] = None
        self._minibatch += ticket.input_tokens

    def _fits(self, ticket: Ticket) -> bool:
        if len(self._running) >= self._config.max_running:
            return False
        if self._minibatch and self._minibatch + ticket.input_tokens > self._config.minibatch_tokens:
            return False
        return fits_pool(map(self._size, (*self._running, ticket)), self._config.pool_tokens)

    def _size(self, ticket: Ticket) -> tuple[int, int]:
        """(tokens so far, tokens left); the prefill that a candidate asks for yields its first token."""
        produced = max(1, ticket.produced)
        expected = max(self._output_tokens[ticket], ticket.predicted)
        return ticket.input_tokens + produced, expected - produced

    def grow(self, ticket: Ticket, tokens: int) -> int:
        return 0

    def release(self, ticket: Ticket) -> None:
        del self._running[ticket]

    def check_integrity(self, in_flight: Iterable[Ticket]) -> None:
        if set(self._running) != set(in_flight):
            raise LawError("the engine holds room for other tickets than those in flight")
