"""A real gateway in front of real (scripted) engines, all on free ports. After every test nothing may be held."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from hashlib import sha256
from itertools import count
from typing import Any

import aiohttp
import pytest

from fairgate.topology.stores import StoreServer, find_servers
from fairness import Worker
from gateway.app import Gateway, build
from gateway.config.load import parse_config
from gateway.log.writer import LogWriter
from gateway.pools.shared.machine import machine
from gateway.pools.shared.view import View

from .engine import Engine

STORE_TIMES = {"lease_s": 1.5, "heartbeat_s": 0.1, "timeout_s": 0.5, "flush_s": 0.01}
PATIENT = {"lease_s": 20.0, "timeout_s": 10.0}
"""Where nothing is to be lost: a machine that is busy for a while must not look like a store that is gone."""
KEYS = {"a": "key-a", "b": "key-b", "limited": "key-l"}


def tenant(name: str, **settings: Any) -> dict[str, Any]:
    return {"id": name, "keys_sha256": [sha256(KEYS[name].encode()).hexdigest()], **settings}


class House:
    """A running gateway, its engines, and a client. What the pool looks like comes from its scheduler; see
    `SharedHouse` for the other form."""

    def __init__(self, gateway: Gateway, engines: list[Engine], session: aiohttp.ClientSession) -> None:
        self.gateway = gateway
        self.engines = engines
        self.engine = engines[0]
        self.session = session
        self.url = f"http://127.0.0.1:{gateway.port}"
        self.pool: Any = gateway.pools["main"]

    def post(self, body: Any, *, key: str | None = "key-a", path: str = "/v1/chat/completions", **more: Any) -> Any:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        data = body if isinstance(body, bytes) else json.dumps(body)
        return self.session.post(self.url + path, data=data, headers={**headers, **more.pop("headers", {})}, **more)

    def counter(self, tenant_id: str) -> float:
        """The tenant's virtual counter; 0 when it is forgotten."""
        state = self.pool.scheduler.snapshot().tenants.get(tenant_id)
        return state.counter if state else 0.0

    def waiting(self, tenant_id: str | None = None) -> int:
        return int(self.pool.scheduler.queue_length(tenant_id))

    def gap(self) -> float:
        return float(self.pool.scheduler.gap())

    def bound(self) -> float:
        return float(self.pool.scheduler.bound())

    def produced(self) -> list[int]:
        """Output tokens of what is here."""
        return [ticket.produced for ticket in self.pool._turns]

    def workers(self) -> dict[str, Worker]:
        return {worker.id: worker for worker in self.pool.snapshot()[1]}

    def worker(self, engine: Engine | None = None) -> Worker:
        return self.workers()[(engine or self.engine).url]

    def check(self) -> None:
        self.pool.scheduler.check_integrity()

    async def close(self) -> None:
        await self.gateway.close()
        self.check()
        assert self.pool.idle(), "something still waits or runs"
        assert all(worker.reserved == 0 for worker in self.workers().values()), "room was not given back"
        assert not self.pool._turns
        assert self.gateway.server.memory.total == 0, "a body is still accounted for"


class SharedHouse(House):
    """A house whose pool's state is in a store; what the pool looks like is asked there."""

    def __init__(self, store: StoreServer, namespace: str, *house: Any) -> None:
        super().__init__(*house)
        self._store = store
        self._prefix = f"{{{namespace}:main}}"

    def look(self) -> dict[str, Any]:
        text = self._store.command("FCALL", machine().function("inspect"), 1, self._prefix)
        return dict(json.loads(text)) if text else {"waiting": 0, "running": 0, "held": 0, "workers": [], "shares": {}}

    def counter(self, tenant_id: str) -> float:
        """What this gateway charged."""
        return float(self.pool.book.total(tenant_id)) / 1000

    def waiting(self, tenant_id: str | None = None) -> int:
        look = self.look()
        return int(look["waiting"] if tenant_id is None else look["shares"].get(tenant_id, look)["waiting"])

    def gap(self) -> float:
        return View(self.pool.settings, self.look()).gap

    def bound(self) -> float:
        return View(self.pool.settings, self.look()).bound()

    def produced(self) -> list[int]:
        return [held.ticket.produced for held in self.pool.held]

    def workers(self) -> dict[str, Worker]:
        names = ("id", "slots", "tokens", "running", "reserved", "healthy")
        return {worker["id"]: Worker(*(worker[name] for name in names)) for worker in self.look()["workers"]}

    def check(self) -> None:
        look = self.look()
        assert sum(worker["running"] for worker in look["workers"]) == look["running"]

    def settled(self) -> bool:
        look = self.look()
        return (look["waiting"], look["running"], look["held"]) == (0, 0, 0) and self._books_agree()

    def _books_agree(self) -> bool:
        told = self._store.command("HGETALL", f"{self._prefix}:book:{self.pool.link.name}")
        own = self.pool.book.totals().items()
        return {path: int(total) for path, total in told.items() if int(total)} == {path: n for path, n in own if n}

    async def close(self) -> None:
        if self.pool.link.lease_until:
            self.pool.close()
            await self.gateway.hotpath.live.abort()
            await until(self.settled)
        await self.gateway.close()
        assert not len(self.pool.held), "something still waits or runs"
        assert self.gateway.server.memory.total == 0, "a body is still accounted for"
        assert all(worker.reserved == 0 for worker in self.workers().values()), "room was not given back"
        left = self._store.command("KEYS", self._prefix + ":*")
        assert not [key for key in left if key.split(":")[-1] in ("tickets", "replicas", "leases")], "it has not left"


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3, **more}


MakeHouse = Callable[..., Awaitable[House]]
_names = count()


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    """One server for the whole suite of behaviour; every test has a namespace of its own."""
    servers = find_servers()
    assert servers, "neither redis-server nor the Valkey of the dev extra was found"
    with StoreServer(min(servers.items())[1], tmp_path_factory.mktemp("store")) as server:
        server.command("FUNCTION LOAD", "REPLACE", machine().source)
        yield server


@pytest.fixture(params=["local", "shared"])
async def make_house(request: pytest.FixtureRequest) -> AsyncIterator[MakeHouse]:
    """Build a house: `engines`, pool settings, and sections of the configuration by name. With its state in this
    process, and with its state in a store: what clients see is the same."""
    store = request.getfixturevalue("store") if request.param == "shared" else None
    async with AsyncExitStack() as stack:
        yield _maker(stack, store)


@pytest.fixture
async def make_local_house() -> AsyncIterator[MakeHouse]:
    """For what shared state has not."""
    async with AsyncExitStack() as stack:
        yield _maker(stack, None)


def _maker(stack: AsyncExitStack, store: StoreServer | None) -> MakeHouse:
    async def make(
        *engines: Engine,
        pool: dict[str, Any] | None = None,
        worker: dict[str, Any] | None = None,
        tenants: list[dict[str, Any]] | None = None,
        wait: bool = True,
        log: LogWriter | None = None,
        **sections: Any,
    ) -> House:
        running = [await engine.start() for engine in engines or (Engine(),)]
        for engine in running:
            stack.push_async_callback(engine.stop)
        workers = [{"url": e.url, "slots": 8, "kv_tokens": 10_000, **(worker or {})} for e in running]
        namespace = f"house-{next(_names)}"
        config = {
            "listen": {"port": 0},
            "pools": {"main": {"models": ["m"], "workers": workers, **(pool or {})}},
            "tenants": tenants or [tenant("a"), tenant("b")],
            "health": {"interval_s": 0.05},
            **({"store": {"url": store.url, "namespace": namespace, **STORE_TIMES, **PATIENT}} if store else {}),
            **sections,
        }
        gateway = build(parse_config(config), log)
        await gateway.start()
        session = await stack.enter_async_context(aiohttp.ClientSession())
        parts = (gateway, running, session)
        house = House(*parts) if store is None else SharedHouse(store, namespace, *parts)
        stack.push_async_callback(house.close)
        if wait:
            await until(
                lambda: len(known := house.workers()) == len(running) and all(w.healthy for w in known.values())
            )
            await until(lambda: gateway.ready())
        return house

    return make


async def until(reached: Callable[[], bool]) -> None:
    """Wait for something that has no event to wait on; a minute without it is a failure on the busiest machine too."""
    async with asyncio.timeout(60):
        while not reached():  # noqa: ASYNC110 - there is no event to wait on
            await asyncio.sleep(0.002)
