"""The way of one request, top to bottom: authenticate -> admit -> wait for a turn -> forward -> meter -> settle.

Nothing here knows HTTP or JSON: `Call` is the client's side, whose edge has authenticated it, `Upstream` the workers';
an `Endpoint` reads what is asked and answered, and what differs between engines is known to each worker's `Engine`.
From the moment a request is sent until its answer is over its task sleeps, while a `Delivery` meters what arrives and
writes it to the client. A request owns at most a ticket, which is given back by `Exchange.release`, which every exit
goes through and which may run twice. That holds for cancellation at any await too: the server edge cancels `serve` when
the client is gone.

What is charged. A request that its engine failed, overflowed or refused before it produced anything is undone, as if it
had never been dispatched. A client that leaves after its request was sent pays for the input, which the engine has
worked on, and for output: of a stream what was seen, whoever ends it; of an answer that is not streamed, which nobody
sees before its end, by the time it ran (see `Pace`). The same goes for such an answer that takes longer than it may.
A request without a stream is charged its output in one step, when it ends. That costs the bound nothing: its room is
released in the same step, so whatever is charged late is charged to one who still held room for it.

The first event is also when the answer to the client begins: until then a request may move to another worker.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from itertools import count

from fairness import Grant, Refusal, Ticket
from gateway.config.schema import TenantConfig, Timeouts
from gateway.delivery import Delivery
from gateway.engines.engine import LEAST_USAGE, Engine
from gateway.errors import ApiError, EngineRefused, NotFound, Overloaded, RateLimited, UpstreamError, UpstreamFailed
from gateway.exchange import Exchange, Job, Route
from gateway.live import Live
from gateway.openai.endpoint import Ask, Consumed, Endpoint
from gateway.openai.estimate import Estimator
from gateway.pools.drain_rate import retry_headers
from gateway.ports import Call, ClientGone, Patience, Upstream
from gateway.record import Record
from gateway.refusals import no_healthy_worker, refused
from gateway.tenants.quota import Quotas

logger = logging.getLogger("gateway")
MOST_OVERFLOWS = 8
"""How often one request goes back to the head of the queue because an engine was full, before the client hears it."""
MOST_UNREACHED = 8
"""Attempts that may end without a connection before that counts as a failure."""
MOST_RETRIES = 1
"""How often a request that an engine failed is sent to another one."""


class HotPath:
    """Serves calls. `endpoints` by path, `routes` by model, `engines` by worker. `clock` in seconds, that of the pools;
    `stopwatch` a finer one for what is only reported (uvloop's clock has milliseconds); `on_end` gets the record of
    every request that is over."""

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        routes: Mapping[str, Route],
        upstream: Upstream,
        engines: Mapping[str, Engine],
        *,
        timeouts: Timeouts,
        quotas: Quotas,
        clock: Callable[[], float],
        stopwatch: Callable[[], float],
        on_end: Callable[[Record], None],
    ) -> None:
        self._endpoints = endpoints
        self._routes = routes
        self._upstream = upstream
        self._engines = engines
        self._stream_patience = Patience(timeouts.first_byte_s, timeouts.idle_s)
        self._answer_patience = Patience(timeouts.answer_s, timeouts.idle_s)
        self._quotas = quotas
        self._clock = clock
        self._stopwatch = stopwatch
        self._on_end = on_end
        self._estimator = Estimator()
        self._serial = count()
        self.live = Live()
        self.draining = False

    async def serve(self, call: Call) -> None:
        """Answer one call. Raises nothing but cancellation: every error becomes an answer."""
        exchange = Exchange(call, Record(call.request_id, call.path, self._stopwatch()))
        task = self.live.began()
        try:
            await self._serve(exchange)
            exchange.record.outcome = "ok"
        except asyncio.CancelledError:
            if not self.live.aborting:
                exchange.client_left()
                raise
            task.uncancel()
            self._fail(exchange, Overloaded("draining", "The gateway is shutting down.", retry_after=1.0))
        except ClientGone:
            exchange.client_left()
        except Exception as error:
            self._fail(exchange, self._as_answer(exchange, error))
        finally:
            self.live.ended(task)
            self._release(exchange)
            exchange.close_record(self._stopwatch())
            self._on_end(exchange.record)

    async def _serve(self, exchange: Exchange) -> None:
        call, record = exchange.call, exchange.record
        tenant = call.tenant
        record.tenant = tenant.id if tenant is not None else ""
        ask = self._endpoints[call.path].read(call.body())  # nobody else keeps the bytes: `ask` lets go of them in time
        assert tenant is not None
        job = exchange.job = self._job(tenant, ask, record)
        await self._admit(job)
        delivery = await self._begin(exchange, job)
        self._settle(job, delivery.reading.meter)
        self._end(exchange, delivery)

    # -- admit -------------------------------------------------------------------------------------------------

    def _job(self, tenant: TenantConfig, ask: Ask, record: Record) -> Job:
        record.model, record.stream = ask.model, ask.stream
        route = self._routes.get(ask.model)
        if route is None or not tenant.may_use(ask.model):
            message = f"The model `{ask.model}` does not exist or you do not have access to it."
            raise NotFound("model_not_found", message, param="model")
        record.pool = route.pool.name
        ticket = Ticket(
            f"{record.request_id}-{next(self._serial)}",
            tenant.id,
            self._estimator.estimate(ask.model, ask.raw_tokens),
            ask.most_output(route.config.default_max_tokens),
            deadline=self._clock() + route.config.queue.timeout_s,
            adapter=route.adapter,
            priority=tenant.priority,
            streams=ask.stream,
        )
        return Job(tenant, ask, route, ticket, record)

    async def _admit(self, job: Job) -> None:
        if self.draining:
            raise Overloaded("draining", "The gateway is shutting down.", retry_after=job.pool.retry_after())
        if not job.pool.healthy():
            raise no_healthy_worker(job.pool)
        wait = await self._quotas.admit(job.tenant.id, job.ticket.id, self._clock())
        if wait is not None:
            message = f"Tenant {job.tenant.id} is over its limit of {job.tenant.rpm} requests a minute."
            raise RateLimited("rate_limit_exceeded", message, retry_after=wait)
        asked = self._stopwatch()
        refusal = await job.pool.submit(job.ticket)
        job.record.queued += self._stopwatch() - asked
        if refusal is not None:
            await self._quotas.give_back(job.tenant.id, job.ticket.id, self._clock())
            raise refused(refusal, job.pool)

    # -- wait for a turn, forward ------------------------------------------------------------------------------

    async def _begin(self, exchange: Exchange, job: Job) -> Delivery:
        """Take turns until an engine has answered."""
        while True:
            worker = (await self._turn(job)).worker
            job.record.attempts += 1
            try:
                return await self._forward(exchange, job, worker)
            except UpstreamError as error:
                if job.consumed:
                    raise
                self._may_try_again(job, worker, error)
            job.pool.requeue(job.ticket)

    async def _turn(self, job: Job) -> Grant:
        asked = self._stopwatch()
        turn = await job.pool.turn(job.ticket)
        job.record.queued += self._stopwatch() - asked
        if isinstance(turn, Refusal):
            raise refused(turn, job.pool)
        job.record.worker, job.record.dispatched = turn.worker, True
        return turn

    def _may_try_again(self, job: Job, worker: str, error: UpstreamError) -> None:
        """An engine did not take the request: report that, and raise what the client hears when this was the last
        attempt."""
        if error.kind == "overflow":
            job.pool.overflowed(worker)
            job.record.overflows += 1
            if job.record.overflows > MOST_OVERFLOWS:
                message = "The engines stay full; the request was put back too often."
                raise Overloaded("engines_full", message, retry_after=job.pool.retry_after())
            return
        job.pool.failed(worker, reached=error.reached)
        job.ticket.avoid |= {worker}
        if not error.reached and job.record.attempts <= MOST_UNREACHED:
            return  # nothing was sent: like what is still queued, it waits for a worker that can be reached
        job.failures += 1
        if job.failures > MOST_RETRIES or not job.pool.healthy(besides=job.ticket.avoid):
            raise error
        logger.warning("request %s: %s; trying another worker", job.record.request_id, error)

    async def _forward(self, exchange: Exchange, job: Job, worker: str) -> Delivery:
        """Send the request to `worker`, and hand on its answer. Raises UpstreamError, EngineRefused: the request is
        undone then, unless the engine has worked on it to some purpose (`job.consumed`)."""
        engine = self._engines[worker]
        try:
            return await self._post(exchange, job, engine, worker)
        except (UpstreamError, EngineRefused) as error:
            if not exchange.begun and not _ran_out_of_time(job, error):
                job.undo()
            raise

    async def _post(self, exchange: Exchange, job: Job, engine: Engine, worker: str) -> Delivery:
        """An answer with status 200. An engine that refuses to report usage as asked is asked again for less; that it
        does not know more has shown when it takes that."""
        ask = job.ask
        request_id = f"{job.ticket.id}-{job.record.attempts}"  # unique, whatever ids clients send
        patience = self._stream_patience if ask.stream else self._answer_patience
        usage_options, again = engine.usage_options(), False
        while True:
            delivery = Delivery(exchange, job, ask.endpoint.reading(ask), engine, self._clock, self._first)
            await self._upstream.post(
                worker,
                ask.endpoint.path,
                ask.endpoint.upstream_body(ask, usage_options),
                request_id,
                delivery,
                patience,
                repeatable=engine.dialect.repeatable,
            )
            if delivery.status == 200:
                if again:
                    engine.minds_usage()
                return delivery
            refusal = delivery.refusal()
            again = ask.stream and engine.may_mind_usage(usage_options, delivery.status, refusal)
            if not again:
                raise engine.dialect.not_taken(delivery.status, refusal)
            usage_options = LEAST_USAGE

    def _first(self, exchange: Exchange) -> None:
        """The engine has begun to answer."""
        job = exchange.job
        assert job is not None
        exchange.record.first_byte = self._stopwatch()
        exchange.drop_body()
        if job.ask.stream:
            exchange.call.begin(self._headers(exchange))
            exchange.record.status, exchange.begun = 200, True

    # -- settle ------------------------------------------------------------------------------------------------

    def _settle(self, job: Job, meter: Consumed) -> None:
        """The engine is done. Settled before the client has read the end: a slow client holds no room."""
        ask, engine = job.ask, job.engine
        job.pool.finish(job.ticket)
        if engine is not None:
            engine.pace.ended(meter.produced, ask.choices, self._clock() - job.sent)
        self._estimator.observe(ask.model, ask.raw_tokens, meter.input_tokens or 0)

    def _end(self, exchange: Exchange, delivery: Delivery) -> None:
        call = exchange.call
        if exchange.begun:
            call.end(delivery.last + delivery.reading.ending())
        else:
            exchange.record.status = 200
            call.reply(200, delivery.reading.ending(), self._headers(exchange))

    # -- answers -----------------------------------------------------------------------------------------------

    def _headers(self, exchange: Exchange) -> dict[str, str]:
        record, job = exchange.record, exchange.job
        headers = {"x-request-id": record.request_id}
        if job is not None:
            headers |= self._quotas.headers(job.tenant.id, self._clock())
            headers["x-fairgate-queue-ms"] = str(round(record.queued * 1000))
        return headers

    def _fail(self, exchange: Exchange, error: ApiError) -> None:
        """Let go of everything first: nothing of the error's way to the client may hold room."""
        self._release(exchange)
        record, call = exchange.record, exchange.call
        record.outcome = error.code
        try:
            if exchange.begun and exchange.job is not None:
                call.end(exchange.job.ask.endpoint.error_event(error.body()))
                return
            record.status = error.status
            headers = {**self._headers(exchange), **error.headers}
            if error.retry_after is not None:
                headers |= retry_headers(error.retry_after)
            call.reply(error.status, error.body(), headers)
        except ClientGone:
            exchange.client_left()

    def _release(self, exchange: Exchange) -> None:
        try:
            exchange.release(self._clock())
        except Exception as error:  # a fault of our own: its client is answered and its record told all the same
            logger.error("request %s: not all it held was given back", exchange.record.request_id, exc_info=error)

    def _as_answer(self, exchange: Exchange, error: Exception) -> ApiError:
        if isinstance(error, ApiError):
            return error
        if isinstance(error, UpstreamError):
            logger.warning("request %s: %s", exchange.record.request_id, error)
            return UpstreamFailed(f"upstream_{error.kind}", "The engine failed while it served this request.")
        logger.error("request %s: internal error", exchange.record.request_id, exc_info=error)
        return ApiError("internal_error", "The gateway failed; the fault is its own.")


def _ran_out_of_time(job: Job, error: Exception) -> bool:
    """An answer that nobody saw took longer than it may: an engine worked on it all that time, and so would another."""
    return not job.ask.stream and isinstance(error, UpstreamError) and error.kind == "timeout"
