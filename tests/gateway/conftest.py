"""A real gateway in front of real (scripted) engines, all on free ports. After every test nothing may be held."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from hashlib import sha256
from typing import Any

import aiohttp
import pytest

from gateway.app import Gateway, build
from gateway.config import parse_config

from .engine import Engine

KEYS = {"a": "key-a", "b": "key-b", "limited": "key-l"}


def tenant(name: str, **settings: Any) -> dict[str, Any]:
    return {"id": name, "keys_sha256": [sha256(KEYS[name].encode()).hexdigest()], **settings}


class House:
    """A running gateway, its engines, and a client."""

    def __init__(self, gateway: Gateway, engines: list[Engine], session: aiohttp.ClientSession) -> None:
        self.gateway = gateway
        self.engines = engines
        self.engine = engines[0]
        self.session = session
        self.url = f"http://127.0.0.1:{gateway.port}"
        self.pool = gateway.pools["main"]

    def post(self, body: Any, *, key: str | None = "key-a", path: str = "/v1/chat/completions", **more: Any) -> Any:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        data = body if isinstance(body, bytes) else json.dumps(body)
        return self.session.post(self.url + path, data=data, headers={**headers, **more.pop("headers", {})}, **more)

    def counter(self, tenant_id: str) -> float:
        """The tenant's virtual counter; 0 when it is forgotten."""
        state = self.pool.scheduler.snapshot().tenants.get(tenant_id)
        return state.counter if state else 0.0


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3, **more}


MakeHouse = Callable[..., Awaitable[House]]


@pytest.fixture
async def make_house() -> AsyncIterator[MakeHouse]:
    """Build a house: `engines`, pool settings, and sections of the configuration by name."""
    async with AsyncExitStack() as stack:

        async def make(
            *engines: Engine,
            pool: dict[str, Any] | None = None,
            worker: dict[str, Any] | None = None,
            tenants: list[dict[str, Any]] | None = None,
            wait: bool = True,
            **sections: Any,
        ) -> House:
            running = [await engine.start() for engine in engines or (Engine(),)]
            for engine in running:
                stack.push_async_callback(engine.stop)
            workers = [{"url": e.url, "slots": 8, "kv_tokens": 10_000, **(worker or {})} for e in running]
            config = {
                "listen": {"port": 0},
                "pools": {"main": {"models": ["m"], "workers": workers, **(pool or {})}},
                "tenants": tenants or [tenant("a"), tenant("b")],
                "health": {"interval_s": 0.05},
                **sections,
            }
            gateway = build(parse_config(config))
            await gateway.start()
            stack.push_async_callback(_close, gateway)
            session = await stack.enter_async_context(aiohttp.ClientSession())
            house = House(gateway, running, session)
            if wait:
                await until(lambda: all(w.healthy for w in house.pool.snapshot()[1]))
            return house

        yield make


async def until(reached: Callable[[], bool]) -> None:
    """Wait for something that has no event to wait on, ten seconds at most."""
    async with asyncio.timeout(10):
        while not reached():  # noqa: ASYNC110 - there is no event to wait on
            await asyncio.sleep(0.002)


async def _close(gateway: Gateway) -> None:
    await gateway.close()
    for pool in gateway.pools.values():
        pool.scheduler.check_integrity()
        assert pool.idle(), "something still waits or runs"
        assert all(worker.reserved == 0 for worker in pool.snapshot()[1]), "room was not given back"
        assert not pool._turns
