"""Is a worker alive, how large is it, and is it full: probes of /health, and /metrics where that is needed.

A worker starts unhealthy and becomes healthy with the first good probe. It turns unhealthy at once when a request
cannot connect to it, and after two bad probes in a row; a bad one is repeated soon at first, then with backoff.
A worker whose running slots neither the configuration nor its metrics tell is watched more closely: the requests that
wait inside it correct the fall-back (`SlotLimit`).
"""

from __future__ import annotations

import asyncio
import logging
import re
from contextlib import suppress

from gateway.config import FALLBACK_KV_TOKENS, FALLBACK_SLOTS, Health, WorkerConfig
from gateway.errors import UpstreamError
from gateway.pools.port import Pool
from gateway.ports import Upstream

logger = logging.getLogger("gateway")

FIRST_BACKOFF = 0.25
BAD_PROBES = 2
FEEDBACK_INTERVAL = 1.0
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_WAITING = re.compile(r"^(?:vllm:num_requests_waiting|sglang:num_queue_reqs)(?:\{[^}]*\})? (\S+)", re.MULTILINE)


class Prober:
    """Watches one worker of one pool for as long as `run` runs."""

    def __init__(self, pool: Pool, worker: WorkerConfig, upstream: Upstream, health: Health) -> None:
        self._pool = pool
        self._worker = worker
        self._upstream = upstream
        self._health = health
        self._soon = asyncio.Event()
        self._bad = 0
        self._good: bool | None = None
        self._sized = worker.slots is not None and worker.kv_tokens is not None
        self._needs_feedback = False

    def suspect(self) -> None:
        """A request failed there: probe at once."""
        self._soon.set()

    async def run(self) -> None:
        while True:
            await self._probe()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._soon.wait()
            self._soon.clear()

    async def _probe(self) -> None:
        good = await self._alive()
        if good and (not self._sized or self._needs_feedback):
            await self._measure()
        self._bad = 0 if good else self._bad + 1
        if good or self._bad >= BAD_PROBES:
            self._pool.set_health(self._worker.url, good)
        if good is not self._good:
            logger.info("worker %s of pool %s %s", self._worker.url, self._pool.name, "answers" if good else "is away")
            self._good = good

    async def _alive(self) -> bool:
        try:
            status, _ = await self._upstream.get(self._worker.url, "/health", self._health.timeout_s)
        except UpstreamError:
            return False
        return status == 200

    async def _measure(self) -> None:
        try:
            _, body = await self._upstream.get(self._worker.url, "/metrics", self._health.timeout_s)
        except UpstreamError:
            body = b""
        metrics = body.decode("utf-8", "replace")
        if not self._sized:
            self._size(metrics)
        if self._needs_feedback:
            self._pool.engine_waiting(self._worker.url, read_waiting(metrics))

    def _size(self, metrics: str) -> None:
        slots, kv_tokens = read_size(metrics)
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


def read_size(metrics: str) -> tuple[int | None, int | None]:
    """Slots and KV tokens from the labels of `vllm:cache_config_info`: `max_num_seqs` where the engine names it, and
    `num_gpu_blocks` (or `num_cpu_blocks`, on a CPU engine) * `block_size`. None for what is not there."""
    line = next((line for line in metrics.splitlines() if line.startswith("vllm:cache_config_info{")), "")
    labels = {name: int(value) for name, value in _LABEL.findall(line) if value.isdecimal()}
    blocks = labels.get("num_gpu_blocks") or labels.get("num_cpu_blocks") or 0
    return labels.get("max_num_seqs") or None, blocks * labels.get("block_size", 0) or None


def read_waiting(metrics: str) -> int:
    """Requests that wait inside the engine, over all models; 0 where it does not tell."""
    total = 0.0
    for value in _WAITING.findall(metrics):
        with suppress(ValueError):
            total += float(value)
    return int(total)
