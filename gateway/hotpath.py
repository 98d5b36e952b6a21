"""The way of one request, top to bottom: authenticate -> admit -> wait for a turn -> forward -> meter -> settle.

Nothing here knows HTTP or JSON: `Call` is the client's side, `Upstream` the workers'; an `Endpoint` reads what is asked
and answered, and what differs between engines is known to each worker's `Engine`. A request owns at most a ticket and
an answer; both are given back by `Exchange.release`, which every exit goes through and which may run twice. That holds
for cancellation at any await too: the server edge cancels `serve` when the client is gone.

What is charged. A request that its engine failed, overflowed or refused before it produced anything is undone, as if it
had never been dispatched. A client that leaves after its request was sent pays for the input, which the engine has
worked on; from the first event on, what was seen stays charged, whoever ends the request.
The first event is also when the answer to the client begins: until then a request may move to another worker.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from itertools import count

from fairness import Grant, Refusal, Ticket
from gateway.config.schema import TenantConfig, Timeouts
from gateway.engines.engine import Engine, read_refusal
from gateway.errors import ApiError, EngineRefused, NotFound, Overloaded, RateLimited, UpstreamError, UpstreamFailed
from gateway.exchange import Exchange, Job, Route
from gateway.live import Live
from gateway.openai.endpoint import Ask, Consumed, Endpoint, MeteredAnswer
from gateway.openai.estimate import Estimator
from gateway.pools.drain_rate import retry_headers
from gateway.ports import Answer, Call, ClientGone, Upstream
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
        self._timeouts = timeouts
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
        with self.live.serving() as task:
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
                exchange.release()
                exchange.close_record(self._stopwatch())
                self._on_end(exchange.record)

    async def _serve(self, exchange: Exchange) -> None:
        call, record = exchange.call, exchange.record
        tenant = call.tenant
        record.tenant = tenant.id if tenant is not None else ""
        body = call.body()
        assert tenant is not None
        ask = self._endpoints[call.path].read(body)
        job = exchange.job = self._job(tenant, ask, record)
        await self._admit(job)
        answer, first = await self._begin(job)
        record.first_byte = self._stopwatch()
        await self._relay(exchange, job, answer, first)

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

    async def _begin(self, job: Job) -> tuple[MeteredAnswer, bytes | None]:
        """Take turns until an engine has begun to answer: its answer, and what the client gets of its beginning."""
        while True:
            grant = await self._turn(job)
            job.record.attempts += 1
            try:
                return await self._forward(job, grant.worker)
            except UpstreamError as error:
                job.drop_answer()
                self._may_try_again(job, grant.worker, error)
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

    async def _forward(self, job: Job, worker: str) -> tuple[MeteredAnswer, bytes | None]:
        """Send the request to `worker`; its answer, once that has begun. Raises UpstreamError, EngineRefused."""
        job.consumed = True
        try:
            async with asyncio.timeout(self._timeouts.first_byte_s):
                answer = job.ask.endpoint.metered(job.ask, await self._post(job, worker))
                first = await answer.read()
        except (TimeoutError, UpstreamError, EngineRefused) as error:
            job.consumed = False
            if isinstance(error, TimeoutError):
                raise UpstreamError("timeout", f"{worker} sent no first event in time") from None
            raise
        return answer, first

    async def _post(self, job: Job, worker: str) -> Answer:
        """An answer with status 200. An engine that refuses to report usage as asked is asked again for less."""
        engine = self._engines[worker]
        while True:
            usage_options = engine.usage_options()
            answer = await self._send(job, worker, job.ask.endpoint.upstream_body(job.ask, usage_options))
            if answer.status == 200:
                return answer
            body = await read_refusal(answer)
            if not engine.refused_usage(usage_options, answer.status, body):
                raise engine.dialect.not_taken(answer.status, body)
            job.drop_answer()

    async def _send(self, job: Job, worker: str, body: bytes) -> Answer:
        request_id = f"{job.ticket.id}-{job.record.attempts}"  # unique, whatever ids clients send
        job.answer = answer = await self._upstream.post(worker, job.ask.endpoint.path, body, request_id)
        return answer

    # -- meter, settle -----------------------------------------------------------------------------------------

    async def _relay(self, exchange: Exchange, job: Job, answer: MeteredAnswer, out: bytes | None) -> None:
        """Hand on what the engine answers, charging it as it comes; `out` is its beginning."""
        call, record = exchange.call, exchange.record
        if job.ask.stream:
            call.begin(self._headers(exchange))
            record.status, exchange.begun = 200, True
        while out is not None:
            self._report(job, answer.meter)
            if out:
                call.send(out)
            out = await answer.read()
        self._settle(job, answer.meter)
        if exchange.begun:
            call.end(answer.ending())
        else:
            record.status = 200
            call.reply(200, answer.ending(), self._headers(exchange))

    def _report(self, job: Job, meter: Consumed) -> None:
        """Charge what has been seen so far, and correct the input as soon as the engine has counted it."""
        record = job.record
        counted = (meter.input_tokens, meter.cached_tokens)
        if meter.input_tokens is not None and counted != (record.input_tokens, record.cached_tokens):
            record.input_tokens, record.cached_tokens = meter.input_tokens, meter.cached_tokens
            job.pool.correct(job.ticket, meter.input_tokens, meter.cached_tokens)
        if meter.produced != record.output_tokens:
            record.output_tokens = meter.produced
            job.pool.charge(job.ticket, meter.produced)

    def _settle(self, job: Job, meter: Consumed) -> None:
        """The engine is done. Settled before the client has read the end: a slow client holds no room."""
        job.pool.finish(job.ticket)
        job.finish_answer()
        self._estimator.observe(job.ask.model, job.ask.raw_tokens, meter.input_tokens or 0)

    # -- answers -----------------------------------------------------------------------------------------------

    def _headers(self, exchange: Exchange) -> dict[str, str]:
        record, job = exchange.record, exchange.job
        headers = {"x-request-id": record.request_id}
        if job is not None:
            headers |= self._quotas.headers(job.tenant.id, self._clock())
            headers["x-fairgate-queue-ms"] = str(round(record.queued * 1000))
        return headers

    def _fail(self, exchange: Exchange, error: ApiError) -> None:
        """Let go of everything first: the client may take its time to hear of the error."""
        exchange.release()
        record, call = exchange.record, exchange.call
        record.outcome = error.code
        try:
            if exchange.begun and exchange.job is not None:
                call.end(exchange.job.ask.endpoint.error_event(error.body()), broken=True)
                return
            record.status = error.status
            headers = {**self._headers(exchange), **error.headers}
            if error.retry_after is not None:
                headers |= retry_headers(error.retry_after)
            call.reply(error.status, error.body(), headers)
        except ClientGone:
            exchange.client_left()

    def _as_answer(self, exchange: Exchange, error: Exception) -> ApiError:
        if isinstance(error, ApiError):
            return error
        if isinstance(error, UpstreamError):
            logger.warning("request %s: %s", exchange.record.request_id, error)
            return UpstreamFailed(f"upstream_{error.kind}", "The engine failed while it served this request.")
        logger.error("request %s: internal error", exchange.record.request_id, exc_info=error)
        return ApiError("internal_error", "The gateway failed; the fault is its own.")
