"""Is a worker alive, and how large is it: probes of /health, and /metrics once it is reached.

A worker starts unhealthy and becomes healthy with the first good probe. It turns unhealthy at once when a request
cannot connect to it, and after two bad probes in a row. A bad one is repeated sooner at first, then with backoff.
"""

from __future__ import annotations

import asyncio
import logging
import re

from gateway.config import FALLBACK_KV_TOKENS, FALLBACK_SLOTS, Health, WorkerConfig
from gateway.errors import UpstreamError
from gateway.pool import LocalPool
from gateway.upstream import Upstream

logger = logging.getLogger("gateway")

FIRST_BACKOFF = 0.25
BAD_PROBES = 2
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class Prober:
    """Watches one worker of one pool for as long as `run` runs."""

    def __init__(self, pool: LocalPool, worker: WorkerConfig, upstream: Upstream, health: Health) -> None:
        self._pool = pool
        self._worker = worker
        self._upstream = upstream
        self._health = health
        self._soon = asyncio.Event()
        self._bad = BAD_PROBES - 1  # the first bad probe of a new worker counts
        self._was_good = True
        self._sized = worker.slots is not None and worker.kv_tokens is not None

    def suspect(self) -> None:
        """A request failed there: probe at once. Nothing goes to a worker that the pool holds for unhealthy."""
        self._soon.set()

    async def run(self) -> None:
        while True:
            await self._probe()
            try:
                async with asyncio.timeout(self._pause()):
                    await self._soon.wait()
            except TimeoutError:
                pass
            self._soon.clear()

    async def _probe(self) -> None:
        good = await self._alive()
        if good and not self._sized:
            await self._size()
        self._bad = 0 if good else self._bad + 1
        if good or self._bad >= BAD_PROBES:
            self._pool.set_health(self._worker.url, good)
        if good is not self._was_good:
            logger.info("worker %s of pool %s %s", self._worker.url, self._pool.name, "answers" if good else "is away")
            self._was_good = good

    async def _alive(self) -> bool:
        try:
            status, _ = await self._upstream.get(self._worker.url, "/health", self._health.timeout_s)
        except UpstreamError:
            return False
        return status == 200

    async def _size(self) -> None:
        try:
            _, text = await self._upstream.get(self._worker.url, "/metrics", self._health.timeout_s)
        except UpstreamError:
            text = b""
        slots, kv_tokens = read_size(text.decode("utf-8", "replace"))
        self._pool.set_size(
            self._worker.url,
            self._worker.slots or slots or FALLBACK_SLOTS,
            self._worker.kv_tokens or kv_tokens or FALLBACK_KV_TOKENS,
        )
        self._sized = True

    def _pause(self) -> float:
        if not self._bad:
            return self._health.interval_s
        return float(min(self._health.max_backoff_s, FIRST_BACKOFF * 2 ** min(self._bad, 16)))


def read_size(metrics: str) -> tuple[int | None, int | None]:
    """Slots and KV tokens from the labels of `vllm:cache_config_info`: `max_num_seqs` where the engine names it, and
    `num_gpu_blocks` (or `num_cpu_blocks`, on a CPU engine) * `block_size`."""
    line = next((line for line in metrics.splitlines() if line.startswith("vllm:cache_config_info{")), "")
    labels = {name: int(value) for name, value in _LABEL.findall(line) if value.isdecimal()}
    blocks = labels.get("num_gpu_blocks") or labels.get("num_cpu_blocks") or 0
    return labels.get("max_num_seqs") or None, blocks * labels.get("block_size", 0) or None
