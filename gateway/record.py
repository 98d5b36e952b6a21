"""What is known of one request when it is over: the source of its metrics and of its line in the access log."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

access_logger = logging.getLogger("gateway.access")


@dataclass(slots=True)
class Record:
    """Times in seconds on a monotonic clock; None where the request did not get that far.

    `outcome` is `ok`, `client_closed`, or the code of the error it ended in.
    """

    request_id: str
    path: str
    started: float
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

    def ttft(self) -> float | None:
        """Seconds from arrival to the first event of the answer, the wait in the queue included."""
        return None if self.first_byte is None else self.first_byte - self.started

    def line(self) -> str:
        """One JSON object. Holds no key and nothing of the request's or the answer's content."""
        ttft = self.ttft()
        return json.dumps(
            {
                "request_id": self.request_id,
                "tenant": self.tenant,
                "pool": self.pool,
                "model": self.model,
                "path": self.path,
                "stream": self.stream,
                "status": self.status,
                "outcome": self.outcome,
                "worker": self.worker,
                "attempts": self.attempts,
                "overflows": self.overflows,
                "queue_ms": round(self.queued * 1000, 3),
                "ttft_ms": None if ttft is None else round(ttft * 1000, 3),
                "duration_ms": round((self.ended - self.started) * 1000, 3),
                "input_tokens": self.input_tokens,
                "cached_tokens": self.cached_tokens,
                "output_tokens": self.output_tokens,
            }
        )
