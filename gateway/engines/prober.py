"""Is a worker alive, what is it, how large is it, and is it full: probes of its health, and of its metrics: once at
least, for they show what kind of engine it is, and as often as its size or its queue is asked of them.

A worker starts unhealthy and becomes healthy with the first good probe. It turns unhealthy at once when a request
cannot connect to it, and after two bad probes in a row; a bad one is repeated soon at first, then with backoff.
A worker whose running slots neither the configuration nor its metrics tell is watched more closely: the requests that
wait inside it correct the fall-back (`SlotLimit`).
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from gateway.config.schema import FALLBACK_KV_TOKENS, FALLBACK_SLOTS, Health, WorkerConfig
from gateway.engines.engine import Engine
from gateway.errors import UpstreamError
from gateway.pools.port import Pool
from gateway.ports import Upstream

logger = logging.getLogger("gateway")

FIRST_BACKOFF = 0.25
BAD_PROBES = 2
FEEDBACK_INTERVAL = 1.0
METRICS_PATH = "/metrics"


class Prober:
    """Watches one worker of one pool for as long as `run` runs. `looked`: the first probe is over, well or not."""

    def __init__(self, pool: Pool, worker: WorkerConfig, engine: Engine, upstream: Upstream, health: Health) -> None:
        self._pool = pool
        self._worker = worker
        self._engine = engine
        self._upstream = upstream
        self._health = health
        self.looked = asyncio.Event()
        self._soon = asyncio.Event()
        self._bad = 0
        self._good: bool | None = None
        self._heard = False
        self._sized = worker.slots is not None and worker.kv_tokens is not None
        self._needs_feedback = False

    def suspect(self) -> None:
        """A request failed there: probe at once."""
        self._soon.set()

    async def run(self) -> None:
        while True:
            await self._probe()
            self.looked.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._soon.wait()
            self._soon.clear()

    async def _probe(self) -> None:
        good = await self._alive()
        if good and not (self._heard and self._sized and not self._needs_feedback):
            await self._measure()
        self._bad = 0 if good else self._bad + 1
        if good or self._bad >= BAD_PROBES:
            self._pool.set_health(self._worker.url, good)
        if good is not self._good:
            logger.info("worker %s of pool %s %s", self._worker.url, self._pool.name, "answers" if good else "is away")
            self._good = good

    async def _alive(self) -> bool:
        try:
            for path in self._engine.health_paths():
                status, _ = await self._upstream.get(self._worker.url, path, self._health.timeout_s)
                if status == 200:
                    return True
        except UpstreamError:
            pass
        return False

    async def _measure(self) -> None:
        try:
            _, body = await self._upstream.get(self._worker.url, METRICS_PATH, self._health.timeout_s)
            self._heard = True
        except UpstreamError:
            body = b""
        metrics = body.decode("utf-8", "replace")
        self._engine.hear(metrics)
        if not self._sized:
            self._size(metrics)
        if self._needs_feedback:
            self._pool.engine_waiting(self._worker.url, self._engine.dialect.count_waiting(metrics))

    def _size(self, metrics: str) -> None:
        slots, kv_tokens = self._engine.dialect.size(metrics)
        slots = self._worker.slots or slots
        self._needs_feedback = slots is None
        self._sized = True
        self._pool.set_size(
            self._worker.url, slots or FALLBACK_SLOTS, self._worker.kv_tokens or kv_tokens or FALLBACK_KV_TOKENS
        )

    def _pause(self) -> float:
        if self._bad:
            return float(min(self._health.max_backoff_s, FIRST_BACKOFF * 2 ** min(self._bad - 1, 16)))
        return min(self._health.interval_s, FEEDBACK_INTERVAL) if self._needs_feedback else self._health.interval_s
