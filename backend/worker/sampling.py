"""From logits to a token: greedy, temperature, nucleus."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NUCLEUS = 256  # tokens that nearly always reach top_p; sorting a whole vocabulary takes longer than a decode step


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a request wants its output. `temperature` 0 is greedy. `top_p`: the smallest set of tokens whose
    probabilities reach it (arXiv:1904.09751). The output ends at a token that ends it (unless `ignore_eos`), before
    the first of `stop`, or after `max_tokens`; not before `min_tokens`."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    min_tokens: int = 0
    ignore_eos: bool = False


def generator(params: SamplingParams, device: torch.device) -> torch.Generator | None:
    """The request's own source of randomness on the device of its logits, so that others in its batch cannot shift it;
    None when greedy."""
    if params.temperature == 0:
        return None
    source = torch.Generator(device)
    if params.seed is None:
        source.seed()
    else:
        source.manual_seed(params.seed)
    return source


def sample(logits: Tensor, params: SamplingParams, source: torch.Generator | None) -> int:
    """One token for `logits` [vocab], float32; `source` is on their device."""
    if source is None:
        return int(logits.argmax())
    probabilities = torch.softmax(logits / params.temperature, dim=-1)
    if params.top_p < 1.0:
        probabilities = _nucleus(probabilities, params.top_p)
    return int(torch.multinomial(probabilities, 1, generator=source))


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    for count in (NUCLEUS, len(probabilities)):
        best, tokens = probabilities.topk(min(count, len(probabilities)))
        reached = best.cumsum(0)
        if reached[-1] >= top_p:
            break
    best = best.masked_fill(reached - best >= top_p, 0.0)
    return torch.zeros_like(probabilities).scatter_(0, tokens, best)
