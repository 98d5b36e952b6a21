"""Faults put where a test wants them: at every call that the way of a request makes into its client, its pool, and
the one who reads its engine's answer.

A `Path` is that way without HTTP on the client's side and without probes: a hot path, a pool in this process, and
connections to real (raw) engines. What of it is watched passes a place just before and just after each call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from fairness import Ticket, parse_cost
from gateway.config.load import parse_config
from gateway.config.schema import TenantConfig, Timeouts
from gateway.engines.engine import Engine
from gateway.exchange import Route
from gateway.hotpath import HotPath
from gateway.http.upstream import HttpUpstream
from gateway.openai.registry import ENDPOINTS
from gateway.pools.build import local_pools
from gateway.ports import ClientGone, Patience, Receiver, Upstream
from gateway.record import Record
from gateway.tenants.directory import TenantDirectory
from gateway.tenants.quota import LocalQuotas

from ..conftest import tenant
from ..raw_engine import RawEngine

WATCHED = ("charge", "correct", "finish", "leave", "requeue", "overflowed", "failed")
VLLM = "vllm:num_requests_waiting 0\n"


class Places:
    """Counts the places that are passed. At the `at`-th, `name`d then, `act` is called."""

    def __init__(self, at: int = 0, act: Callable[[str], None] = lambda name: None) -> None:
        self.passed = 0
        self.name = ""
        self._at = at
        self._act = act

    def pass_by(self, name: str) -> None:
        self.passed += 1
        if self.passed == self._at:
            self.name = name
            self._act(name)

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **named: Any) -> Any:
            self.pass_by(f"before {name}")
            result = call(*args, **named)
            self.pass_by(f"after {name}")
            return result

        return watched


class PlainCall:
    """The client's side without HTTP. Once it is `gone`, to write to it raises ClientGone. `kept`: its body is."""

    path = "/v1/chat/completions"
    request_id = "r"

    def __init__(self, tenant: TenantConfig | None, body: bytes) -> None:
        self.tenant = tenant
        self.sent = b""
        self.status = 0
        self.over = False
        self.gone = False
        self.kept = True
        self._body = body

    def body(self) -> bytes:
        return self._body

    def begin(self, headers: Mapping[str, str]) -> None:
        self.status = 200

    def send(self, data: bytes) -> None:
        self._write(data)

    def end(self, data: bytes) -> None:
        self._write(data)
        self.over = True

    def reply(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self._write(body)
        self.status, self.over = status, True

    def release_body(self) -> None:
        self.kept = False

    def _write(self, data: bytes) -> None:
        if self.gone:
            raise ClientGone
        self.sent += data


class WatchedCall(PlainCall):
    def __init__(self, places: Places, tenant: TenantConfig | None, body: bytes) -> None:
        super().__init__(tenant, body)
        for name in ("begin", "send", "end", "reply", "release_body"):
            setattr(self, name, places.around(f"call.{name}", getattr(self, name)))


class WatchedPool:
    """A pool of which every report passes a place. `places` may be exchanged. `submitted`: the tickets it was given,
    the oldest first, each with the input that was estimated for it."""

    def __init__(self, pool: Any) -> None:
        self.places = Places()
        self.submitted: list[tuple[Ticket, int]] = []
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._pool, name)
        return self.places.around(f"pool.{name}", found) if name in WATCHED else found

    async def submit(self, ticket: Ticket) -> Any:
        self.submitted.append((ticket, ticket.input_tokens))
        return await self._pool.submit(ticket)


class WatchedReceiver:
    def __init__(self, places: Places, receiver: Receiver) -> None:
        self._receiver = receiver
        for name in ("sent", "head", "data", "eof"):
            setattr(self, name, places.around(f"receiver.{name}", getattr(receiver, name)))

    @property
    def begun(self) -> bool:
        return self._receiver.begun


class WatchedUpstream:
    def __init__(self, upstream: Upstream) -> None:
        self.places = Places()
        self._upstream = upstream

    async def post(
        self,
        worker: str,
        path: str,
        body: bytes,
        request_id: str,
        receiver: Receiver,
        patience: Patience,
        *,
        repeatable: bool,
    ) -> None:
        watched: Any = WatchedReceiver(self.places, receiver)
        await self._upstream.post(worker, path, body, request_id, watched, patience, repeatable=repeatable)

    async def get(self, worker: str, path: str, patience: float) -> tuple[int, bytes]:
        return await self._upstream.get(worker, path, patience)

    async def close(self) -> None:
        await self._upstream.close()


class Path:
    """Must be made on the event loop. The engines have been started; they are taken for vLLM. `pool`: its settings
    where they are others than here."""

    def __init__(
        self, engines: list[RawEngine], timeouts: dict[str, float] | None = None, slots: int = 1, **pool: Any
    ) -> None:
        workers = [{"url": engine.url, "slots": slots, "kv_tokens": 10_000} for engine in engines]
        pools = {"main": {"models": ["m"], "workers": workers, "predict": "max_tokens", **pool}}
        self.config = config = parse_config({"pools": pools, "tenants": [tenant("a"), tenant("b", weight=3.0)]})
        clock = asyncio.get_running_loop().time
        self.pool = local_pools(config, clock)["main"]
        self.engines = engines
        for engine in engines:
            self.pool.set_health(engine.url, True)
        self.records: list[Record] = []
        self.known = {engine.url: Engine() for engine in engines}
        self._pool = WatchedPool(self.pool)
        self.submitted = self._pool.submitted
        self._http = HttpUpstream(config.pools["main"].workers, config.timeouts)
        self._upstream = WatchedUpstream(self._http)
        self.cost = parse_cost(config.pools["main"].cost)
        route: Any = Route(self._pool, config.pools["main"], self.cost, "")
        self.hotpath = HotPath(
            ENDPOINTS,
            {"m": route},
            self._upstream,
            self.known,
            timeouts=Timeouts(**(timeouts or {})),
            quotas=LocalQuotas(TenantDirectory(config.tenants)),
            clock=clock,
            stopwatch=clock,
            on_end=self.records.append,
        )

    def watch(self, places: Places, body: bytes) -> WatchedCall:
        """From here on what happens passes these places. The call is for `hotpath.serve`."""
        self._pool.places = self._upstream.places = places
        return WatchedCall(places, self.config.tenants[0], body)

    def forget_engines(self) -> None:
        """What was found out about them: they are vLLM, which works for the one who is connected."""
        for url in self.known:
            self.known[url] = Engine()
            self.known[url].hear(VLLM)

    def check(self) -> None:
        """Nothing is held."""
        self.pool.scheduler.check_integrity()
        assert self.pool.idle(), "something still waits or runs"
        assert not self.pool._turns, "a turn is still waited for"
        assert all(worker.reserved == 0 for worker in self.pool.snapshot()[1]), "room was not given back"

    def connections_are_kept(self) -> bool:
        """Each that is open waits for the next request; what was dropped closes in the next turn of the loop."""
        return all(address._all == set(address._kept) for address in self._http._workers.values())

    async def close(self) -> None:
        self.pool.close()
        await self._upstream.close()
