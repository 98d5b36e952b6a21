"""What a refusal by a pool means for the client."""

from __future__ import annotations

from fairness import Refusal
from gateway.errors import ApiError, Invalid, Overloaded, QueueTimeout, RateLimited
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
