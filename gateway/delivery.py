"""An engine's answer on its way to the client: counted, charged and written in the callback that read it.

The task of the request sleeps meanwhile (`Upstream.post`) and settles when it is over. So an event costs no task
switch, and nothing waits for a client to read: what it leaves unread is bounded, and over that it is cut off.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.engines.engine import Engine
from gateway.errors import Invalid
from gateway.exchange import Exchange, Job
from gateway.openai.endpoint import Reading

MOST_REFUSAL_BYTES = 2**20
"""Of an engine's answer other than 200; more is not read."""


class Delivery:
    """A receiver (see ports.py) of the answer of `engine`. `clock` is that of the pools; `begin` starts the answer to
    the client, once there is something to tell; `last` is what came together with the end of a stream, to be sent
    with it."""

    def __init__(
        self,
        exchange: Exchange,
        job: Job,
        reading: Reading,
        engine: Engine,
        clock: Callable[[], float],
        begin: Callable[[Exchange], None],
    ) -> None:
        self.begun = False
        self.status = 0
        self.last = b""
        self.reading = reading
        self._exchange = exchange
        self._job = job
        self._engine = engine
        self._clock = clock
        self._begin = begin
        self._refusal: list[bytes] = []
        self._refusal_bytes = 0

    def sent(self) -> None:
        self._job.sent_to(self._engine, self._clock())

    def head(self, status: int) -> None:
        self.status = status

    def data(self, data: bytes) -> bool:
        if self.status != 200:
            return self._refused(data)
        reading = self.reading
        out = reading.feed(data)
        if reading.began or reading.ended:
            self._began()
        if reading.ended:
            self.last = out
            return True
        if out:
            self._exchange.call.send(out)
        if reading.fault is not None:
            raise reading.fault
        return False

    def eof(self) -> None:
        if self.status == 200:
            self.reading.close()
            self._began()

    def refusal(self) -> bytes:
        """The body of an answer other than 200. One that is too long is not handed on in part."""
        if self._refusal_bytes < MOST_REFUSAL_BYTES:
            return b"".join(self._refusal)
        return Invalid("refused_by_engine", f"The engine refused this in more than {MOST_REFUSAL_BYTES} bytes.").body()

    def _began(self) -> None:
        if not self.begun:
            self.begun = True
            self._begin(self._exchange)
        self._report()

    def _report(self) -> None:
        """Charge what has been seen so far, and correct the input as soon as the engine has counted it."""
        job, meter = self._job, self.reading.meter
        record = job.record
        counted = meter.input_tokens
        if counted is not None and (counted != record.input_tokens or meter.cached_tokens != record.cached_tokens):
            record.input_tokens, record.cached_tokens = counted, meter.cached_tokens
            job.pool.correct(job.ticket, counted, meter.cached_tokens)
        if meter.produced != record.output_tokens:
            record.output_tokens = meter.produced
            job.pool.charge(job.ticket, meter.produced)

    def _refused(self, data: bytes) -> bool:
        self._refusal.append(data)
        self._refusal_bytes += len(data)
        return self._refusal_bytes >= MOST_REFUSAL_BYTES
