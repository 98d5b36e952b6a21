"""A cluster of three: each pool on one shard, pools and quotas spread over the shards."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp
import redis
from redis.crc import key_slot

from fairgate.topology.stores import StoreCluster
from gateway.app import Gateway, build
from gateway.config.load import parse_config

from ...conftest import KEYS, PATIENT, STORE_TIMES, chat, tenant, until
from ...engine import Engine

POOLS = ("red", "green", "blue")
SHARDS = 3


def shard(pool: str) -> int:
    return key_slot(f"fairgate:{pool}".encode()) * SHARDS // 16384


async def test_pools_are_spread_over_shards(binary: Path, tmp_path: Path) -> None:
    names = [next(name for n in range(99) if shard(name := f"{pool}{n}") == i) for i, pool in enumerate(POOLS)]
    engines = [await Engine().start() for _ in names]
    with StoreCluster(binary, tmp_path, nodes=SHARDS) as cluster:
        config = parse_config(
            {
                "listen": {"port": 0},
                "pools": {
                    name: {"models": [name], "workers": [{"url": engine.url, "slots": 2, "kv_tokens": 10_000}]}
                    for name, engine in zip(names, engines, strict=True)
                },
                "tenants": [tenant("a", rpm=100), tenant("b")],
                "health": {"interval_s": 0.05},
                "store": {"url": cluster.url, "cluster": True, **STORE_TIMES},
            }
        )
        gateways = [build(config) for _ in range(2)]
        for gateway in gateways:
            await gateway.start()
        try:
            await until(lambda: all(settled(gateway) for gateway in gateways))
            calls = [(gateways[n % 2], names[n % 3], "ab"[n // 6 % 2]) for n in range(36)]
            assert await asyncio.gather(*(post(*call) for call in calls)) == [200] * 36
            await until(lambda: all(pool.idle() for gateway in gateways for pool in gateway.pools.values()))
            for name in names:
                keys = cluster.nodes[shard(name)].command("KEYS", f"{{fairgate:{name}}}:book:*")
                assert len(keys) == 2, "a pool is not where its hash tag puts it"
        finally:
            for gateway in gateways:
                await gateway.close()
        for node in cluster.nodes:
            assert not [key for key in node.command("KEYS", "*") if ":tickets" in key or ":replicas" in key]
    for engine in engines:
        assert engine.most_active <= 2
        await engine.stop()


def move_slot(cluster: StoreCluster, slot: int, source: int, target: int) -> None:
    """With nothing in it: the pool's state is lost on the way, which is worse than any move that is prepared."""
    name = cluster.nodes[target].command("CLUSTER", "MYID")
    for node in (target, *(n for n in range(SHARDS) if n != target)):
        while True:
            try:
                if node == source:
                    cluster.nodes[node].command("FLUSHALL")
                cluster.nodes[node].command("CLUSTER SETSLOT", slot, "NODE", name)
                break
            except redis.ResponseError as error:
                assert "hold keys" in str(error)  # noqa: PT017 - else a call came in between


async def test_a_pool_follows_its_slot_to_another_shard(binary: Path, tmp_path: Path) -> None:
    """Calls and grants over bare connections hear of the move and go to the new place, functions and all."""
    engine = await Engine().start()
    with StoreCluster(binary, tmp_path, nodes=SHARDS) as cluster:
        workers = [{"url": engine.url, "slots": 1, "kv_tokens": 10_000}]
        config = parse_config(
            {
                "listen": {"port": 0},
                "pools": {"main": {"models": ["m"], "workers": workers}},
                "tenants": [tenant("a"), tenant("b")],
                "health": {"interval_s": 0.05},
                "store": {"url": cluster.url, "cluster": True, **STORE_TIMES, **PATIENT},
            }
        )
        gateways = [build(config) for _ in range(2)]
        for gateway in gateways:
            await gateway.start()
        try:
            await until(lambda: all(settled(gateway) for gateway in gateways))
            assert await asyncio.gather(*(post(gateways[n % 2], "m", "ab"[n % 2]) for n in range(8))) == [200] * 8
            source = shard("main")
            target = (source + 1) % SHARDS
            await asyncio.to_thread(move_slot, cluster, key_slot(b"fairgate:main"), source, target)
            await until(lambda: len(cluster.nodes[target].command("KEYS", "{fairgate:main}:book:*")) == 2)
            await until(lambda: all(settled(gateway) for gateway in gateways))
            assert await asyncio.gather(*(post(gateways[n % 2], "m", "ab"[n % 2]) for n in range(8))) == [200] * 8
            assert not cluster.nodes[source].command("KEYS", "{fairgate:main}*")
        finally:
            for gateway in gateways:
                await gateway.close()
    await engine.stop()


def settled(gateway: Gateway) -> bool:
    return all(pool.standing().mode == "shared" and pool.healthy() for pool in gateway.pools.values())


async def post(gateway: Gateway, model: str, who: str) -> int:
    headers = {"x-api-key": KEYS[who]}
    url = f"http://127.0.0.1:{gateway.port}/v1/chat/completions"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=json.dumps(chat(model=model)), headers=headers) as answer,
    ):
        await answer.read()
        return answer.status
