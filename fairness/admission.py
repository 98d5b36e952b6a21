"""Which requests are not even queued: those that no worker can hold, and those that come on top of a full queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf

from fairness.ticket import Refusal, Ticket


class Admission:
    """`max_waiting` bounds the whole queue, `per_tenant` each tenant's, `tenants` a named tenant's own."""

    def __init__(self, max_waiting: float, per_tenant: float, tenants: Mapping[str, int]) -> None:
        self._max_waiting = max_waiting
        self._per_tenant = per_tenant
        self._tenants = dict(tenants)

    def refuse(self, ticket: Ticket, largest: int, length: Callable[[str | None], int]) -> Refusal | None:
        """`largest` is the KV tokens of the largest worker; `length` of a tenant's queue, or of the whole (None)."""
        if ticket.input_tokens + 1 > largest:
            return Refusal(
                "too_large",
                f"the input of {ticket.input_tokens} tokens and one output token exceed the {largest} tokens "
                "of the largest worker",
            )
        if self._max_waiting != inf and (waiting := length(None)) >= self._max_waiting:
            return Refusal("pool_queue_full", f"the queue is full ({waiting} requests wait)")
        limit = self._tenants.get(ticket.tenant, self._per_tenant)
        if limit != inf and (waiting := length(ticket.tenant)) >= limit:
            return Refusal("tenant_queue_full", f"tenant {ticket.tenant} has {waiting} requests waiting, its limit")
        return None
