"""The live client: real HTTP load in an open loop. A request leaves when it is due, whatever became of the others.

Closed loops hide overload: a client that waits for an answer before it asks again slows down with the server, and
then measures itself. Here every request has its time, and what it waits is counted from that time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from itertools import count, cycle
from secrets import token_hex

import aiohttp

from loadgen.client.record import Ending, Exchange, LoadRecord
from loadgen.client.sse import DONE, SseParser, TooLarge
from loadgen.client.target import Target, TargetError, bearer, check_target, url_of
from loadgen.client.wire import error_code, note_event, queue_seconds, request_body
from loadgen.progress import Progress, quiet
from loadgen.workloads.prompts import Prompts
from loadgen.workloads.workload import Request

REFUSALS = {503, 529}  # besides every 4xx
PROGRESS_S = 0.5


async def run_load(
    target: Target, arrivals: Sequence[Request], *, prompts: Prompts | None = None, progress: Progress = quiet
) -> LoadRecord:
    """Send every request at its time, once, drain, and return what was seen.

    Raises TargetError before anything is sent when a tenant of the workload has no key, or an address of the target
    does not answer or refuses a key. What dies later costs only the requests it held. Cancelling closes every stream.
    """
    ordered = sorted(arrivals, key=lambda arrival: arrival.t_s)
    _check_keys(target, ordered)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        await check_target(session, target, {arrival.tenant for arrival in ordered})
        client = _Client(session, target, prompts or Prompts(), progress)
        return await client.run(ordered)


def _check_keys(target: Target, arrivals: Sequence[Request]) -> None:
    if not arrivals:
        raise TargetError("the workload has no requests; expected at least one")
    missing = sorted({arrival.tenant for arrival in arrivals} - set(target.keys))
    if missing:
        raise TargetError(f"no API key for tenant {', '.join(missing[:5])}; expected one for each of the workload")


class _Client:
    """One run: the tasks in flight and their clock."""

    def __init__(self, session: aiohttp.ClientSession, target: Target, prompts: Prompts, progress: Progress) -> None:
        self._session = session
        self._target = target
        self._prompts = prompts
        self._progress = progress
        self._in_flight: set[asyncio.Task[None]] = set()
        self._clock = asyncio.get_running_loop().time
        self._start, self._started_at = self._clock(), time.time()

    def now(self) -> float:
        return self._clock() - self._start

    async def run(self, arrivals: Sequence[Request]) -> LoadRecord:
        exchanges = _exchanges(self._target, arrivals)
        reporter = asyncio.create_task(self._report(exchanges))
        try:
            await self._send_all(exchanges)
            await self._drain()
        finally:
            reporter.cancel()
            await self._cancel_all()
        lateness = max(exchange.sent_s - exchange.arrival_s for exchange in exchanges)
        return LoadRecord(exchanges, self.now(), lateness, self._started_at)

    async def _send_all(self, exchanges: Sequence[Exchange]) -> None:
        for exchange in exchanges:
            await self._until(exchange.arrival_s)
            if len(self._in_flight) >= self._target.max_in_flight:
                exchange.end(self.now(), Ending.FAILED, "client_limit")
                continue
            task = asyncio.create_task(self._send(exchange))
            self._in_flight.add(task)
            task.add_done_callback(self._in_flight.discard)

    async def _until(self, due_s: float) -> None:
        if (wait := due_s - self.now()) > 0:
            await asyncio.sleep(wait)

    async def _drain(self) -> None:
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=self._target.drain_s)

    async def _cancel_all(self) -> None:
        tasks = list(self._in_flight)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _report(self, exchanges: Sequence[Exchange]) -> None:
        span = max(exchanges[-1].arrival_s, 1e-9)
        while True:
            now = self.now()
            what = "sending" if now < span else "draining"
            self._progress(f"{what}, {len(self._in_flight)} requests in flight", min(1.0, now / span))
            await asyncio.sleep(PROGRESS_S)

    async def _send(self, exchange: Exchange) -> None:
        exchange.sent_s = self.now()
        try:
            async with asyncio.timeout(self._target.request_timeout_s):
                await self._exchange(exchange)
        except TimeoutError:
            exchange.end(self.now(), Ending.ABORTED, "client_timeout")
        except asyncio.CancelledError:
            exchange.end(self.now(), Ending.ABORTED, "drain_ended")
            raise
        except TooLarge:
            exchange.end(self.now(), Ending.FAILED, "event_too_large")
        except (aiohttp.ClientError, OSError) as error:
            exchange.end(self.now(), Ending.FAILED, _name(error, exchange))

    async def _exchange(self, exchange: Exchange) -> None:
        prompt = self._prompts.build(exchange.wanted_input_tokens)
        headers = bearer(self._target.keys[exchange.tenant]) | {"x-request-id": exchange.request_id}
        url, path = url_of(exchange.gateway, self._target.path), self._target.path
        async with self._session.post(url, json=request_body(path, exchange, prompt), headers=headers) as response:
            exchange.status = response.status
            exchange.queue_s = queue_seconds(response.headers.get("x-fairgate-queue-ms"))
            if response.status != 200:
                refused = response.status < 500 or response.status in REFUSALS
                code = error_code(await response.read())
                exchange.end(self.now(), Ending.REJECTED if refused else Ending.FAILED, code)
                return
            await self._read(exchange, response)
        if exchange.input_tokens:
            self._prompts.observe(prompt.count(" ") + 1, exchange.input_tokens)

    async def _read(self, exchange: Exchange, response: aiohttp.ClientResponse) -> None:
        """To the very end of the answer, also past its first terminal marker: a second one would be a fault."""
        parser = SseParser()
        async for chunk in response.content.iter_any():
            now = self.now()
            for payload in parser.feed(chunk):
                if payload == DONE:
                    exchange.done_markers += 1
                    exchange.end(now, Ending.FINISHED)
                elif (error := note_event(exchange, payload, now)) is not None:
                    exchange.end(now, Ending.FAILED, error)
        exchange.end(self.now(), Ending.FAILED, "truncated")


def _exchanges(target: Target, arrivals: Iterable[Request]) -> list[Exchange]:
    """Request ids are unique over runs and hold no `-`, which is where a gateway's own additions to them begin."""
    run, number = token_hex(4), count()
    entry = {tenant: cycle(target.addresses(tenant)) for tenant in target.keys}
    return [
        Exchange(
            arrival.tenant,
            arrival.model or target.model,
            arrival.t_s,
            arrival.input_tokens,
            arrival.output_tokens,
            arrival.t_s,
            request_id=f"{run}.{next(number)}",
            gateway=next(entry[arrival.tenant]),
        )
        for arrival in arrivals
    ]


def _name(error: Exception, exchange: Exchange) -> str:
    """How a request lost its server: it never had one, lost it before the answer began, or in the middle of it."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return "connect_failed"
    return "connection_lost" if exchange.status is None else "cut"
