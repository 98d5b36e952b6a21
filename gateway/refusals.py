"""What a refusal by a pool, and an engine's answer other than 200, mean for the client."""

from __future__ import annotations

from fairness import Refusal
from gateway.errors import (
    ApiError,
    EngineRefused,
    Invalid,
    Overloaded,
    QueueTimeout,
    RateLimited,
    UpstreamError,
)
from gateway.pools.port import Pool


def refused(refusal: Refusal, pool: Pool) -> ApiError:
    """A pool's refusal as the client hears it."""
    if refusal.reason == "too_large":
        return Invalid("context_length_exceeded", f"{refusal.message}.")
    wait = refusal.retry_after or pool.retry_after()
    if refusal.reason == "draining":
        return Overloaded("draining", "The gateway is shutting down.", retry_after=wait)
    if refusal.reason == "no_large_worker":
        return Overloaded("no_large_worker", f"{refusal.message}.", retry_after=wait)
    if refusal.reason == "store_lost":
        return Overloaded("store_lost", f"{refusal.message}.", retry_after=wait)
    if refusal.reason == "queue_timeout":
        return timed_out(pool, wait)
    code = "rate_limit_exceeded" if refusal.reason == "rate_limit" else refusal.reason
    return RateLimited(code, f"{refusal.message}.", retry_after=wait)


def timed_out(pool: Pool, wait: float) -> ApiError:
    """No turn came in time: because nobody could serve it, or because others were before it."""
    if not pool.healthy():
        return no_healthy_worker(pool)
    return QueueTimeout("queue_timeout", "No turn came before the queue timeout.", retry_after=wait)


def no_healthy_worker(pool: Pool) -> Overloaded:
    message = f"No healthy worker serves pool {pool.name} right now."
    return Overloaded("no_healthy_worker", message, retry_after=pool.retry_after())


def not_taken(status: int, body: bytes) -> UpstreamError | EngineRefused:
    """An engine's answer other than 200: full (429, 503), the client's own mistake (4xx), or broken (the rest; 401
    and 403 too, since the credentials are the gateway's)."""
    if status in (429, 503):
        return UpstreamError("overflow", f"the engine is full ({status})")
    if 400 <= status < 500 and status not in (401, 403):
        return EngineRefused(status, body)
    return UpstreamError("status", f"the engine answered with status {status}")
