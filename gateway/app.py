"""Puts a gateway together from its configuration. Everything it shares is made here and handed on; no globals."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from fairness import parse_cost
from gateway.config.schema import GatewayConfig
from gateway.engines.engine import Engine
from gateway.engines.prober import Prober
from gateway.exchange import Route
from gateway.hotpath import HotPath
from gateway.http.pages import Pages
from gateway.http.server import HttpServer
from gateway.http.upstream import HttpUpstream
from gateway.log.writer import LogWriter
from gateway.metrics.page import Metrics
from gateway.metrics.process import ProcessCollector
from gateway.metrics.tally import Tally
from gateway.openai.registry import ENDPOINTS
from gateway.pools.build import local_pools, shared_pools
from gateway.pools.port import Pool
from gateway.record import Record
from gateway.siblings import Place, Siblings
from gateway.store.client import StoreClient
from gateway.tenants.auth import Keyring
from gateway.tenants.directory import TenantDirectory
from gateway.tenants.quota import LocalQuotas, Quotas
from gateway.tenants.shared_quota import SharedQuotas

SERVING = ("own", "shared", "alone")
"""The modes of a pool in which it takes requests."""
FIRST_LOOK_S = 1.0


@dataclass(slots=True)
class Gateway:
    """A gateway that can be started, drained and closed, all on one event loop."""

    config: GatewayConfig
    pools: Mapping[str, Pool]
    hotpath: HotPath
    server: HttpServer
    upstream: HttpUpstream
    engines: Mapping[str, Engine]
    probers: list[Prober]
    store: StoreClient | None
    siblings: Siblings | None = None
    port: int = 0
    _probes: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        """Look at the workers once, then listen: whoever comes first would else hear that there is none. One that says
        nothing is not waited for longer than `FIRST_LOOK_S`. Raises OSError when the address cannot be had; `close` is
        to be called then too."""
        for pool in self.pools.values():
            pool.start()
        self._probes = [asyncio.create_task(prober.run()) for prober in self.probers]
        await self._first_look()
        self.port = await self.server.start(self.config.listen, reuse_port=self.siblings is not None)
        if self.siblings is not None:
            await self.siblings.start()

    async def _first_look(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LOOK_S):
                for prober in self.probers:
                    await prober.looked.wait()

    def ready(self) -> bool:
        """Some pool takes requests and has a healthy worker, and the gateway is not draining."""
        return not self.hotpath.draining and any(
            pool.healthy() and pool.standing().mode in SERVING for pool in self.pools.values()
        )

    async def drain(self) -> bool:
        """Take no new requests and serve those that are queued or running, for `timeouts.drain_s` at most.
        Returns whether all of them were served."""
        self.hotpath.draining = True
        return await self.hotpath.live.idle(self.config.timeouts.drain_s)

    async def close(self) -> None:
        """Stop now: what still waits is refused (503), streams that still run end with an error event."""
        self.hotpath.draining = True
        for pool in self.pools.values():
            pool.close()
        for probe in self._probes:
            probe.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)
        await self.hotpath.live.abort()
        await asyncio.gather(*(pool.end() for pool in self.pools.values()))
        if self.store is not None:
            await self.store.close()
        if self.siblings is not None:
            self.siblings.close()
        await self.server.close()
        await self.upstream.close()


def build(config: GatewayConfig, log: LogWriter | None = None, place: Place | None = None) -> Gateway:
    """Must be called on the event loop that will run the gateway. `log` takes the access log; it is not closed here.
    `place`: among the processes that share its port."""
    clock = asyncio.get_running_loop().time
    store = StoreClient(config.store) if config.store is not None else None
    directory = TenantDirectory(config.tenants)
    pools, quotas = _pools_and_quotas(config, directory, store, clock)
    keyring = Keyring(directory)
    tally = Tally(directory, config.observe.max_tenant_labels)
    metrics = Metrics(tally, pools)
    workers = [worker for pool in config.pools.values() for worker in pool.workers]
    upstream = HttpUpstream(workers, config.timeouts)
    engines = {worker.url: Engine() for worker in workers}
    hotpath = HotPath(
        ENDPOINTS,
        _routes(config, pools),
        upstream,
        engines,
        timeouts=config.timeouts,
        quotas=quotas,
        clock=clock,
        stopwatch=time.perf_counter,
        on_end=_on_end(tally, log if config.observe.access_log else None),
    )
    probers = _probers(config, pools, engines, upstream)
    siblings = Siblings(place, metrics.page) if place is not None else None
    pages = Pages(config, keyring, metrics, lambda: gateway.ready(), pools, siblings)
    server = HttpServer(hotpath.serve, keyring.tenant, ENDPOINTS, pages.by_path(), config.limits)
    dropped = (lambda: log.dropped) if log is not None else (lambda: 0)
    metrics.registry.register(ProcessCollector(server.census, server.memory, dropped))
    gateway = Gateway(config, pools, hotpath, server, upstream, engines, probers, store, siblings)
    return gateway


def _pools_and_quotas(
    config: GatewayConfig, directory: TenantDirectory, store: StoreClient | None, clock: Callable[[], float]
) -> tuple[Mapping[str, Pool], Quotas]:
    if store is None or config.store is None:
        return local_pools(config, clock), LocalQuotas(directory)
    pools = shared_pools(config, store, config.store, clock)
    shared = list(pools.values())
    quotas = SharedQuotas(
        directory,
        store,
        config.store,
        limits=lambda: max((pool.settings for pool in shared), key=lambda settings: settings.revision).quotas,
        replicas=lambda: max(pool.standing().replicas for pool in shared),
        name=shared[0].link.name,
    )
    return pools, quotas


def _routes(config: GatewayConfig, pools: Mapping[str, Pool]) -> dict[str, Route]:
    return {
        model: Route(pools[name], pool, parse_cost(pool.cost), model if model in pool.adapters else "")
        for name, pool in config.pools.items()
        for model in pool.served()
    }


def _probers(
    config: GatewayConfig, pools: Mapping[str, Pool], engines: Mapping[str, Engine], upstream: HttpUpstream
) -> list[Prober]:
    probers: list[Prober] = []
    for name, pool in pools.items():
        own = {
            worker.url: Prober(pool, worker, engines[worker.url], upstream, config.health)
            for worker in config.pools[name].workers
        }
        pool.on_failure = _suspect(own)
        probers += own.values()
    return probers


def _suspect(probers: dict[str, Prober]) -> Callable[[str], None]:
    return lambda worker: probers[worker].suspect()


def _on_end(tally: Tally, log: LogWriter | None) -> Callable[[Record], None]:
    if log is None:
        return tally.observe

    def on_end(record: Record) -> None:
        tally.observe(record)
        log.put(record)

    return on_end
