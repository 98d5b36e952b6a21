"""The live client: real HTTP load in an open loop. A request leaves when it is due, whatever became of the others.

Closed loops hide overload: a client that waits for an answer before it asks again slows down with the server, and
then measures itself. Here every request has its time, and what it waits is counted from that time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import aiohttp

from loadgen.prompts import Prompts
from loadgen.record import Ending, Exchange, LoadRecord
from loadgen.sse import DONE, SseParser, TooLarge
from loadgen.traces import LoadgenError, Request
from loadgen.wire import chat_body, error_code, note_event, queue_seconds

REFUSALS = {503, 529}  # besides every 4xx
PROGRESS_S = 0.5


class TargetError(LoadgenError):
    """The target cannot be loaded: says which address or tenant, what came back and what was expected."""


@dataclass(frozen=True, slots=True)
class Target:
    """An OpenAI-compatible endpoint and how hard it may be pressed.

    `keys` are API keys by tenant. A request over `max_in_flight` is not sent but recorded as failed, so memory is
    bounded and nothing waits; one that lasts longer than `request_timeout_s`, or than `drain_s` after the last
    arrival, is aborted.
    """

    base_url: str
    keys: Mapping[str, str]
    model: str
    request_timeout_s: float = 600.0
    drain_s: float = 600.0
    max_in_flight: int = 20_000

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise TargetError(f"target {self.base_url!r}: expected an address that starts with http:// or https://")
        for name in ("request_timeout_s", "drain_s", "max_in_flight"):
            if not getattr(self, name) > 0:
                raise TargetError(f"target: {name} is {getattr(self, name)!r}; expected more than 0")

    def url(self, path: str) -> str:
        return self.base_url.rstrip("/").removesuffix("/v1") + path


Progress = Callable[[str, float], None]  # (what is going on, part done 0..1)


def quiet(what: str, part: float) -> None:
    """Progress for nobody."""


async def run_load(
    target: Target, arrivals: Sequence[Request], *, prompts: Prompts | None = None, progress: Progress = quiet
) -> LoadRecord:
    """Send every request at its time, drain, and return what was seen.

    Raises TargetError before anything is sent when a tenant of the workload has no key, or the target does not
    answer or refuses a key. Cancelling it closes every stream.
    """
    ordered = sorted(arrivals, key=lambda arrival: arrival.t_s)
    _check_keys(target, ordered)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        await _check_target(session, target, {arrival.tenant for arrival in ordered})
        client = _Client(session, target, prompts or Prompts(), progress)
        return await client.run(ordered)


def _check_keys(target: Target, arrivals: Sequence[Request]) -> None:
    if not arrivals:
        raise TargetError("the workload has no requests; expected at least one")
    missing = sorted({arrival.tenant for arrival in arrivals} - set(target.keys))
    if missing:
        raise TargetError(f"no API key for tenant {', '.join(missing[:5])}; expected one for each of the workload")


async def _check_target(session: aiohttp.ClientSession, target: Target, tenants: set[str]) -> None:
    url = target.url("/v1/models")
    for tenant in sorted(tenants):
        try:
            async with session.get(url, headers=_headers(target, tenant)) as response:
                status, text = response.status, await response.text()
        except (aiohttp.ClientError, OSError) as error:
            raise TargetError(f"{url} does not answer ({error}); expected a running OpenAI-compatible server") from None
        if status != 200:
            raise TargetError(f"{url} answers {status} to tenant {tenant}'s key ({text[:200]!r}); expected 200")


def _headers(target: Target, tenant: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {target.keys[tenant]}"}


class _Client:
    """One run: the tasks in flight and their clock."""

    def __init__(self, session: aiohttp.ClientSession, target: Target, prompts: Prompts, progress: Progress) -> None:
        self._session = session
        self._target = target
        self._prompts = prompts
        self._progress = progress
        self._in_flight: set[asyncio.Task[None]] = set()
        self._clock = asyncio.get_running_loop().time
        self._start = self._clock()

    def now(self) -> float:
        return self._clock() - self._start

    async def run(self, arrivals: Sequence[Request]) -> LoadRecord:
        exchanges = [_exchange(arrival, self._target.model) for arrival in arrivals]
        reporter = asyncio.create_task(self._report(exchanges))
        try:
            await self._send_all(exchanges)
            await self._drain()
        finally:
            reporter.cancel()
            await self._cancel_all()
        lateness = max(exchange.sent_s - exchange.arrival_s for exchange in exchanges)
        return LoadRecord(exchanges, self.now(), lateness)

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
            exchange.end(self.now(), Ending.FAILED, _name(error))

    async def _exchange(self, exchange: Exchange) -> None:
        prompt = self._prompts.build(exchange.wanted_input_tokens)
        headers = _headers(self._target, exchange.tenant)
        url = self._target.url("/v1/chat/completions")
        async with self._session.post(url, json=chat_body(exchange, prompt), headers=headers) as response:
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
        parser = SseParser()
        async for chunk in response.content.iter_any():
            now = self.now()
            for payload in parser.feed(chunk):
                if payload == DONE:
                    exchange.end(now, Ending.FINISHED)
                    return
                error = note_event(exchange, payload, now)
                if error is not None:
                    exchange.end(now, Ending.FAILED, error)
                    return
        exchange.end(self.now(), Ending.FAILED, "truncated")


def _exchange(arrival: Request, model: str) -> Exchange:
    return Exchange(
        arrival.tenant, arrival.model or model, arrival.t_s, arrival.input_tokens, arrival.output_tokens, arrival.t_s
    )


def _name(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return "connect_failed"
    return "disconnected"
