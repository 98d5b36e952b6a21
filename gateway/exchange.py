"""One request on its way: the client's side, what it holds on to, and the one way to let go of it."""

from __future__ import annotations

from fairness import CostFunction, State, Ticket
from gateway.config.schema import PoolConfig, TenantConfig
from gateway.engines.engine import Engine
from gateway.openai.endpoint import Ask
from gateway.pools.port import Pool
from gateway.ports import Call
from gateway.record import Record


class Route:
    """Where a model is served."""

    def __init__(self, pool: Pool, config: PoolConfig, cost: CostFunction, adapter: str) -> None:
        self.pool = pool
        self.config = config
        self.cost = cost
        self.adapter = adapter


class Job:
    """A request that was understood. From submission on it owns its ticket.

    `consumed`: an engine works on it, so what was seen stays charged. `sent`: when it was sent there, on the clock of
    `leave`.
    """

    def __init__(self, tenant: TenantConfig, ask: Ask, route: Route, ticket: Ticket, record: Record) -> None:
        self.tenant = tenant
        self.ask = ask
        self.route = route
        self.pool = route.pool
        self.ticket = ticket
        self.record = record
        self.engine: Engine | None = None
        self.consumed = False
        self.sent = 0.0
        self.failures = 0

    def sent_to(self, engine: Engine, now: float) -> None:
        self.engine, self.sent, self.consumed = engine, now, True

    def undo(self) -> None:
        """Its engine did not serve it after all."""
        self.consumed = False

    def leave(self, now: float) -> None:
        """Give back whatever it holds. May be repeated."""
        if self.consumed and self.ticket.state is State.RUNNING and not self.ask.stream:
            self._charge_unseen(now)
        self.pool.leave(self.ticket, consumed=self.consumed)

    def _charge_unseen(self, now: float) -> None:
        """Nobody saw what an engine produced for it (see `Pace`), unless its answer had just come."""
        ticket = self.ticket
        if self.engine is None or self.record.first_byte is not None:
            return
        self.record.output_tokens = self.engine.pace.unseen(self.ask.choices, now - self.sent, ticket.max_tokens)
        self.pool.charge(ticket, self.record.output_tokens)

    def close_record(self) -> None:
        """Note what it consumed in the end."""
        if self.consumed:
            record = self.record
            record.input_tokens = self.ticket.input_tokens
            record.service = self.route.cost.service(record.input_tokens, record.output_tokens, record.cached_tokens)


class Exchange:
    """A call and how far it got: `job` once it was understood, `begun` once events are being sent."""

    def __init__(self, call: Call, record: Record) -> None:
        self.call = call
        self.record = record
        self.job: Job | None = None
        self.begun = False

    def drop_body(self) -> None:
        """It is not going to be sent again. May be repeated."""
        if self.job is not None:
            self.job.ask.body = b""
        self.call.release_body()

    def release(self, now: float) -> None:
        """Let go of everything. May be repeated."""
        self.drop_body()
        if self.job is not None:
            self.job.leave(now)

    def client_left(self) -> None:
        self.record.status, self.record.outcome = self.record.status or 499, "client_closed"

    def close_record(self, now: float) -> None:
        self.record.ended = now
        if self.job is not None:
            self.job.close_record()
