"""One request on its way: the client's side, what it holds on to, and the one way to let go of it."""

from __future__ import annotations

from dataclasses import dataclass

from fairness import CostFunction, Ticket
from gateway.config.schema import PoolConfig, TenantConfig
from gateway.openai.endpoint import Ask
from gateway.pools.port import Pool
from gateway.ports import Answer, Call
from gateway.record import Record


@dataclass(frozen=True, slots=True)
class Route:
    """Where a model is served."""

    pool: Pool
    config: PoolConfig
    cost: CostFunction
    adapter: str


@dataclass(slots=True)
class Job:
    """A request that was understood. From submission on it owns its ticket, while it is forwarded also an answer.

    `consumed`: an engine works on it, so what was seen stays charged.
    """

    tenant: TenantConfig
    ask: Ask
    route: Route
    ticket: Ticket
    record: Record
    answer: Answer | None = None
    consumed: bool = False
    failures: int = 0

    @property
    def pool(self) -> Pool:
        return self.route.pool

    def finish_answer(self) -> None:
        if self.answer is not None:
            self.answer.finish()
            self.answer = None

    def drop_answer(self) -> None:
        if self.answer is not None:
            self.answer.close()
            self.answer = None

    def release(self) -> None:
        """Give back whatever it holds. May be repeated."""
        self.drop_answer()
        self.pool.leave(self.ticket, consumed=self.consumed)

    def close_record(self) -> None:
        """Note what it consumed in the end."""
        if self.consumed:
            record = self.record
            record.input_tokens = self.ticket.input_tokens
            record.service = self.route.cost.service(record.input_tokens, record.output_tokens, record.cached_tokens)


@dataclass(slots=True)
class Exchange:
    """A call and how far it got: `job` once it was understood, `begun` once events are being sent."""

    call: Call
    record: Record
    job: Job | None = None
    begun: bool = False

    def release(self) -> None:
        if self.job is not None:
            self.job.release()

    def client_left(self) -> None:
        self.record.status, self.record.outcome = self.record.status or 499, "client_closed"

    def close_record(self, now: float) -> None:
        self.record.ended = now
        if self.job is not None:
            self.job.close_record()
