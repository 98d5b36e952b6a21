"""What load is sent to: the addresses of an endpoint, its keys, and how hard it may be pressed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp

from loadgen.client.wire import CHAT, PATHS
from loadgen.errors import LoadgenError


class TargetError(LoadgenError):
    """The target cannot be loaded: says which address or tenant, what came back and what was expected."""


@dataclass(frozen=True, slots=True)
class Target:
    """An OpenAI-compatible endpoint, which may have many addresses, and how hard it may be pressed.

    `keys` are API keys by tenant. `entries` are the addresses that a tenant's requests enter through, in turn; those of
    a tenant that it does not name enter through `base_url`. `path` is what is asked there. A request over
    `max_in_flight` is not sent but recorded as failed, so memory is bounded and nothing waits; one that lasts longer
    than `request_timeout_s`, or than `drain_s` after the last arrival, is aborted.
    """

    base_url: str
    keys: Mapping[str, str]
    model: str
    request_timeout_s: float = 600.0
    drain_s: float = 600.0
    max_in_flight: int = 20_000
    entries: Mapping[str, Sequence[str]] = field(default_factory=dict)
    path: str = CHAT

    def __post_init__(self) -> None:
        for address in (self.base_url, *(url for urls in self.entries.values() for url in urls)):
            if not address.startswith(("http://", "https://")):
                raise TargetError(f"target {address!r}: expected an address that starts with http:// or https://")
        if nowhere := [tenant for tenant, urls in self.entries.items() if not urls]:
            raise TargetError(f"target: no entry for tenant {nowhere[0]}; expected at least one address")
        if self.path not in PATHS:
            raise TargetError(f"target: path is {self.path!r}; expected {' or '.join(PATHS)}")
        for name in ("request_timeout_s", "drain_s", "max_in_flight"):
            if not getattr(self, name) > 0:
                raise TargetError(f"target: {name} is {getattr(self, name)!r}; expected more than 0")

    def url(self, path: str) -> str:
        return url_of(self.base_url, path)

    def addresses(self, tenant: str) -> Sequence[str]:
        """Where a tenant's requests enter."""
        return self.entries.get(tenant) or (self.base_url,)


def url_of(address: str, path: str) -> str:
    """An address of an endpoint, with or without /v1, and one of the paths there."""
    return address.rstrip("/").removesuffix("/v1") + path


async def check_target(session: aiohttp.ClientSession, target: Target, tenants: set[str]) -> None:
    """Raises TargetError for an address that does not answer, or refuses a tenant's key."""
    for tenant in sorted(tenants):
        for address in target.addresses(tenant):
            await _check_address(session, url_of(address, "/v1/models"), tenant, target.keys[tenant])


async def _check_address(session: aiohttp.ClientSession, url: str, tenant: str, key: str) -> None:
    try:
        async with session.get(url, headers=bearer(key)) as response:
            status, text = response.status, await response.text()
    except (aiohttp.ClientError, OSError) as error:
        raise TargetError(f"{url} does not answer ({error}); expected a running OpenAI-compatible server") from None
    if status != 200:
        raise TargetError(f"{url} answers {status} to tenant {tenant}'s key ({text[:200]!r}); expected 200")


def bearer(key: str) -> dict[str, str]:
    """The header that carries an API key."""
    return {"Authorization": f"Bearer {key}"}
