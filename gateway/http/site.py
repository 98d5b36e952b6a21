"""What all connections of one server share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.config.schema import Limits, TenantConfig
from gateway.errors import ApiError, MethodNotAllowed, NotFound, Overloaded, RateLimited
from gateway.http.answers import date
from gateway.http.call import HttpCall
from gateway.http.census import Census, too_many
from gateway.http.pages import Page
from gateway.tenants.held_bytes import TENANT_FULL, HeldBytes

Serve = Callable[[HttpCall], Awaitable[None]]
Authenticate = Callable[[str | None], TenantConfig]
RETRY_S: Final = 1.0
"""After which bytes that wait are fewer, as far as one can say before it is known what they wait for."""


@dataclass(slots=True)
class Site:
    """`serve` answers calls to `endpoints` (POST), a page those to its path (GET, HEAD). `authenticate` turns a key
    into its tenant or raises ApiError. `date`: the header line, renewed by who keeps the time."""

    serve: Serve
    authenticate: Authenticate
    endpoints: Container[str]
    pages: Mapping[str, Page]
    limits: Limits
    census: Census
    memory: HeldBytes
    date: bytes = date()

    def hold(self, call: HttpCall, size: int) -> ApiError | None:
        """Account for `size` bytes of its body, as many as are here now; why they cannot be kept."""
        full = self.memory.hold(_owner(call), size - call.held)
        if full is None:
            call.held = size
            return None
        if full == TENANT_FULL:
            message = "Too many bytes of this tenant's requests are waiting already."
            return RateLimited(full, message, retry_after=RETRY_S)
        return Overloaded(full, "Too many bytes of requests are waiting already.", retry_after=RETRY_S)

    def release(self, call: HttpCall) -> None:
        """Nobody keeps its body any more. May be repeated."""
        if call.held:
            self.memory.release(_owner(call), call.held)
            call.held = 0

    def serves(self, call: HttpCall) -> bool:
        """Whether it goes to the hot path, which then knows of its faults too."""
        return call.method == "POST" and call.path in self.endpoints

    async def answer(self, call: HttpCall) -> None:
        """Raises ClientGone."""
        if self.serves(call):
            await self.serve(call)
            return
        try:
            status, content_type, body = await self.pages[call.path](call.key)
        except ApiError as error:
            call.refuse(error)
        else:
            call.whole(status, content_type, body, {})

    def obstacle(self, call: HttpCall, regular: bool) -> ApiError | None:
        """What stands in its way, as far as the line of the request and the key tell; else its tenant is known.
        `regular`: it has a place of those meant for requests."""
        page = call.path in self.pages
        if not page and call.path not in self.endpoints:
            return NotFound("unknown_url", f"Unknown URL: {call.method} {call.path}")
        if call.method not in (("GET", "HEAD") if page else ("POST",)):
            expected = "GET" if page else "POST"
            message = f"{call.path} takes {expected}, not {call.method}."
            return MethodNotAllowed("method_not_allowed", message, headers={"Allow": expected})
        if page:
            return None
        if not regular:
            return too_many()
        try:
            call.tenant = self.authenticate(call.key)
        except ApiError as error:
            return error
        return None


def _owner(call: HttpCall) -> str:
    """Whose bytes it sends; those of a page's caller, who needs no key, are nobody's."""
    return call.tenant.id if call.tenant is not None else ""
