"""What is known of one request when it is over: the source of its metrics and of its line in the access log."""

from __future__ import annotations

from typing import final


@final
class Record:
    """Times in seconds on a monotonic clock; None where the request did not get that far.

    `outcome` is `ok`, `client_closed`, or the code of the error it ended in. The values below are what a request begins
    with: to give them to the class costs a new record nothing, and all of them are immutable.
    """

    tenant: str = ""
    pool: str = ""
    model: str = ""
    stream: bool = False
    status: int = 0
    outcome: str = ""
    queued: float = 0.0
    dispatched: bool = False
    first_byte: float | None = None
    ended: float = 0.0
    worker: str = ""
    attempts: int = 0
    overflows: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    service: float = 0.0

    def __init__(self, request_id: str, path: str, started: float) -> None:
        self.request_id = request_id
        self.path = path
        self.started = started

    def ttft(self) -> float | None:
        """Seconds from arrival to the first event of a stream, the wait in the queue included. None for an answer that
        comes whole: its first byte says when it ended, and not when its first token was there."""
        return self.first_byte - self.started if self.stream and self.first_byte is not None else None
