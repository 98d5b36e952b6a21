"""Several gateways on one real store, in front of scripted engines. After every test nothing may be held anywhere, and
what the store says each replica charged is what the replica says itself, to the unit.

They share one event loop, so that a test sees and steers the inside of each; `fairgate.topology.Deployment` runs the
same as processes, which a test can only watch from outside and kill."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
import redis

from fairgate.topology.stores import StoreServer, find_servers
from gateway.app import Gateway, build
from gateway.config.load import parse_config
from gateway.pools.shared.machine import machine
from gateway.pools.shared.pool import SharedPool

from ...conftest import KEYS, STORE_TIMES, chat, tenant, until
from ...engine import Engine

SERVERS = find_servers()

PREFIX = "{fairgate:main}"
TENANTS = [tenant("a"), tenant("b"), tenant("limited")]


@pytest.fixture(params=sorted(SERVERS))
def binary(request: pytest.FixtureRequest) -> Path:
    return SERVERS[request.param]


@pytest.fixture
def server(binary: Path, tmp_path: Path) -> Iterator[StoreServer]:
    with StoreServer(binary, tmp_path / "store") as server:
        yield server


class Member:
    """One gateway of a fleet."""

    def __init__(self, gateway: Gateway, session: aiohttp.ClientSession) -> None:
        self.gateway = gateway
        self.pool = cast(SharedPool, gateway.pools["main"])
        self.session = session
        self.url = f"http://127.0.0.1:{gateway.port}"

    def post(self, who: str, **more: Any) -> asyncio.Task[tuple[int, Any]]:
        """A chat request of tenant `who`; its status and JSON body, or the text of a stream."""
        return asyncio.create_task(self._post(who, more.pop("user", who), more))

    async def _post(self, who: str, user: str, more: dict[str, Any]) -> tuple[int, Any]:
        data = json.dumps(chat(user=user, **more))
        headers = {"x-api-key": KEYS[who]}
        async with self.session.post(self.url + "/v1/chat/completions", data=data, headers=headers) as answer:
            return answer.status, await (answer.text() if more.get("stream") else answer.json())

    async def readyz(self) -> tuple[int, Any]:
        async with self.session.get(self.url + "/readyz") as answer:
            return answer.status, await answer.json()

    async def metric(self, name: str) -> float:
        async with self.session.get(self.url + "/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return float(next(line for line in lines if line.startswith(name + "{")).rpartition(" ")[2])

    def lost(self) -> bool:
        """It has found that the store is lost."""
        return self.pool.mode.name in ("alone", "closed")

    def abandon(self) -> None:
        """As after kill -9: it says nothing more to the store."""
        self.pool.link.stop()


class Fleet:
    """Gateways on one store. `engine` is the first of `engines`."""

    def __init__(self, store: StoreServer, engines: list[Engine]) -> None:
        self.store = store
        self.engines = engines
        self.engine = engines[0]
        self.members: list[Member] = []
        self.config: dict[str, Any] = {}

    def idle(self) -> bool:
        return all(member.pool.idle() for member in self.members)

    def __getitem__(self, number: int) -> Member:
        return self.members[number]

    def look(self) -> dict[str, Any]:
        """What the store says of the pool."""
        return dict(json.loads(self.store.command("FCALL", machine().function("inspect"), 1, PREFIX)))

    def book(self, member: Member) -> dict[str, int]:
        found = self.store.command("HGETALL", f"{PREFIX}:book:{member.pool.link.name}")
        return {path: int(total) for path, total in found.items() if int(total)}

    def waiting(self) -> int:
        return sum(member.pool.held.count_waiting() for member in self.members)

    def heard(self) -> list[bool]:
        """By ticket, whether its gateway has the store's answer to it. What the store has done and nobody has heard of
        is lost with it."""
        return [held.queued.done() for member in self.members for held in member.pool.held]

    def running(self) -> int:
        return sum(len(member.pool.held.running()) for member in self.members)

    def shared(self) -> bool:
        return all(member.pool.mode.name == "shared" for member in self.members)

    async def settled(self) -> None:
        """Wait until the store and all gateways agree that nothing is held and who was charged what."""
        await until(lambda: self.shared() and not self.waiting() and not self.running())
        try:
            await until(self._agreed)
        except TimeoutError:
            told = [(self.book(m), m.pool.book.totals()) for m in self.members]
            pytest.fail(f"the store and the gateways do not agree: {self.look()}, books {told}")
        look = self.look()
        assert look["held"] == 0
        assert [(w["running"], w["reserved"]) for w in look["workers"]] == [(0, 0)] * len(self.engines)
        assert self.store.command("HLEN", f"{PREFIX}:tickets") == 0

    def _agreed(self) -> bool:
        look = self.look()
        if look["waiting"] or look["running"]:
            return False
        return all(
            self.book(m) == {path: total for path, total in m.pool.book.totals().items() if total} for m in self.members
        )


MakeFleet = Callable[..., Awaitable[Fleet]]


@pytest.fixture
async def make_fleet(server: StoreServer) -> AsyncIterator[MakeFleet]:
    """Build a fleet: `engines`, how many gateways, pool and worker settings, and sections of the configuration."""
    async with AsyncExitStack() as stack:

        async def make(
            *engines: Engine,
            gateways: int = 2,
            pool: dict[str, Any] | None = None,
            worker: dict[str, Any] | None = None,
            store: dict[str, Any] | None = None,
            wait: bool = True,
            **sections: Any,
        ) -> Fleet:
            running = [await engine.start() for engine in engines or (Engine(),)]
            for engine in running:
                stack.push_async_callback(engine.stop)
            fleet = Fleet(server, running)
            workers = [{"url": e.url, "slots": 1, "kv_tokens": 10_000, **(worker or {})} for e in running]
            config = {
                "listen": {"port": 0},
                "pools": {"main": {"models": ["m"], "workers": workers, **(pool or {})}},
                "tenants": TENANTS,
                "health": {"interval_s": 0.05},
                "store": {"url": server.url, **STORE_TIMES, **(store or {})},
                **sections,
            }
            fleet.config = config
            for _ in range(gateways):
                await join(fleet, config)
            if wait:
                await until(lambda: fleet.shared() and all(member.gateway.ready() for member in fleet.members))
                for member in fleet.members:
                    member.pool.link._outbox.call()  # a heartbeat now: who joined first hears of the others
                await until(lambda: all(m.pool.standing().replicas == gateways for m in fleet.members))
            return fleet

        async def join(fleet: Fleet, config: dict[str, Any]) -> Member:
            gateway = build(parse_config(config))
            await gateway.start()
            stack.push_async_callback(gateway.close)
            session = await stack.enter_async_context(aiohttp.ClientSession())
            fleet.members.append(Member(gateway, session))
            return fleet.members[-1]

        make.join = join  # type: ignore[attr-defined]
        yield make


async def answers(calls: list[asyncio.Task[tuple[int, Any]]]) -> list[int]:
    """The status of each."""
    async with asyncio.timeout(20):
        return [status for status, _ in await asyncio.gather(*calls)]


@pytest.fixture(scope="module", params=sorted(SERVERS))
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    """A server for a module's tests that call the machine itself, each with keys of its own."""
    with StoreServer(SERVERS[request.param], tmp_path_factory.mktemp("machine")) as server:
        connection = redis.Redis.from_url(server.url)
        yield connection
        connection.close()


@pytest.fixture
def url(client: redis.Redis) -> str:
    """Of that server."""
    return f"redis://127.0.0.1:{client.connection_pool.connection_kwargs['port']}"
