"""What a gateway answers by itself: health, readiness, metrics, its books, and the models a tenant may use."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping

from fairness import BUILD
from gateway.config.schema import GatewayConfig
from gateway.metrics.page import CONTENT_TYPE, Metrics
from gateway.pools.port import Pool
from gateway.siblings import Siblings
from gateway.tenants.auth import Keyring

Page = Callable[[str | None], Awaitable[tuple[int, str, bytes]]]
"""An API key in; status, content type and body out. May raise ApiError."""

_JSON = "application/json"


class Pages:
    """`ready` says whether requests can be served now. Liveness depends on nothing but this process. Where `siblings`
    share its port, metrics are those of all of them; everything else is of the process that happens to be asked."""

    def __init__(
        self,
        config: GatewayConfig,
        keyring: Keyring,
        metrics: Metrics,
        ready: Callable[[], bool],
        pools: Mapping[str, Pool],
        siblings: Siblings | None = None,
    ) -> None:
        self._served = [model for pool in config.pools.values() for model in pool.served()]
        self._keyring = keyring
        self._metrics = metrics
        self._ready = ready
        self._pools = pools if config.store is not None else {}
        self._siblings = siblings

    def by_path(self) -> Mapping[str, Page]:
        return {
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/metrics": self._prometheus,
            "/debug/book": self._book,
            "/v1/models": self._models,
        }

    async def _healthz(self, key: str | None) -> tuple[int, str, bytes]:
        return 200, _JSON, b'{"status":"ok"}'

    async def _readyz(self, key: str | None) -> tuple[int, str, bytes]:
        """And whether law and data path are native code (`compiled`) or plain Python (`pure`). With a store also how
        each pool stands with it, and whether this gateway's file is out of date."""
        ready = self._ready()
        body: dict[str, object] = {"status": "ready" if ready else "not ready", "build": BUILD}
        if self._pools:
            body["pools"] = {name: pool.standing()._asdict() for name, pool in self._pools.items()}
        if self._siblings is not None:
            body["processes_up"] = self._siblings.up()
        return 200 if ready else 503, _JSON, json.dumps(body).encode()

    async def _prometheus(self, key: str | None) -> tuple[int, str, bytes]:
        page = self._metrics.page() if self._siblings is None else await self._siblings.metrics()
        return 200, CONTENT_TYPE, page

    async def _book(self, key: str | None) -> tuple[int, str, bytes]:
        """By shared pool (see `ReplicaBook`)."""
        books = {
            name: book._asdict() for name, pool in self._pools.items() if (book := pool.replica_book()) is not None
        }
        return 200, _JSON, json.dumps(books).encode()

    async def _models(self, key: str | None) -> tuple[int, str, bytes]:
        tenant = self._keyring.tenant(key)
        models = [
            {"id": model, "object": "model", "created": 0, "owned_by": "fairgate"}
            for model in self._served
            if tenant.may_use(model)
        ]
        return 200, _JSON, json.dumps({"object": "list", "data": models}).encode()
