"""What all connections of one server share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Mapping
from dataclasses import dataclass

from gateway.config.schema import Limits, TenantConfig
from gateway.errors import ApiError, MethodNotAllowed, NotFound
from gateway.http.answers import date
from gateway.http.call import HttpCall
from gateway.http.census import Census, too_many
from gateway.http.pages import Page

Serve = Callable[[HttpCall], Awaitable[None]]
Authenticate = Callable[[str | None], TenantConfig]


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
    date: bytes = date()

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
