"""What a live client saw: an `Exchange` per request, all of them in a `LoadRecord`. Times in seconds from the start."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Ending(StrEnum):
    """How a request ended. Every request ends in exactly one of them."""

    FINISHED = "finished"  # the whole answer came
    REJECTED = "rejected"  # refused before any of it: a 4xx, 503 or 529
    ABORTED = "aborted"  # given up by this client: its own time limit, or the end of the drain
    FAILED = "failed"  # the server's fault, before or in the stream


@dataclass(slots=True)
class Exchange:
    """One request and its answer. The first ending that `end` is told is the one that counts.

    `request_id` was sent as x-request-id, to the address `gateway`. An answer that obeys the protocol has one terminal
    marker: one [DONE] (`done_markers`), or one error event in its stream (`error_events`).
    `arrival_s` is when it was due, `sent_s` when it really left; all waiting is counted from `arrival_s`.
    Token i of the list `counts` had been produced when `times_s[i]` came: pairs (time, output tokens so far).
    """

    tenant: str
    model: str
    arrival_s: float
    wanted_input_tokens: int
    wanted_output_tokens: int
    sent_s: float = 0.0
    end_s: float = 0.0
    queue_s: float | None = None  # what the gateway says the request waited for its turn
    status: int | None = None
    code: str = ""
    ending: Ending = Ending.FAILED
    input_tokens: int = 0
    times_s: array[float] = field(default_factory=lambda: array("d"))
    counts: array[int] = field(default_factory=lambda: array("l"))
    request_id: str = ""
    gateway: str = ""
    done_markers: int = 0
    error_events: int = 0
    ended: bool = False

    @property
    def output_tokens(self) -> int:
        return self.counts[-1] if self.counts else 0

    @property
    def first_token_s(self) -> float | None:
        return self.times_s[0] if self.times_s else None

    @property
    def ttft_s(self) -> float | None:
        """Time to first token, from the moment the request was due."""
        return self.times_s[0] - self.arrival_s if self.times_s else None

    @property
    def tpot_s(self) -> float | None:
        """Mean time per output token after the first event; None when nothing followed it."""
        after_first = self.output_tokens - self.counts[0] if self.counts else 0
        return (self.times_s[-1] - self.times_s[0]) / after_first if after_first else None

    @property
    def dispatched_s(self) -> float | None:
        """When its turn came: by the gateway's own word, else no later than the first token; None: never."""
        if self.queue_s is not None and self.ending is not Ending.REJECTED:
            return min(self.sent_s + self.queue_s, self.end_s)
        return self.first_token_s

    def end(self, now: float, ending: Ending, code: str = "") -> None:
        if not self.ended:
            self.ended, self.end_s, self.ending, self.code = True, now, ending, code


@dataclass(frozen=True, slots=True)
class LoadRecord:
    """A whole run against one target, requests in order of arrival.

    `lateness_s` is the most any request left after it was due: the load was open-loop if that is small.
    `started_at` is the zero of its times, in seconds of Unix time.
    """

    exchanges: Sequence[Exchange]
    duration_s: float
    lateness_s: float
    started_at: float = 0.0

    def endings(self) -> Mapping[Ending, int]:
        return {ending: sum(e.ending is ending for e in self.exchanges) for ending in Ending}

    def tenants(self) -> list[str]:
        return sorted({exchange.tenant for exchange in self.exchanges})

    def codes(self) -> Mapping[str, int]:
        """How often each reason for not finishing was given."""
        counted: dict[str, int] = {}
        for exchange in self.exchanges:
            if exchange.ending is not Ending.FINISHED:
                reason = f"{exchange.status or '-'} {exchange.code}".strip()
                counted[reason] = counted.get(reason, 0) + 1
        return counted
