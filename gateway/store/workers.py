"""The workers of a shared pool as one replica sees them, and how it tells the store."""

from __future__ import annotations

from collections.abc import Iterator

from fairness import Worker
from gateway.store.link import Op
from gateway.store.settings import Settings
from gateway.store.view import View


class Workers:
    """Health is what this replica's own probes say. `shown` are for metrics: slots in use and room as the store has
    them. `ttl` seconds is a good probe believed by the others."""

    def __init__(self, settings: Settings, ttl: float) -> None:
        self.shown = {w["id"]: Worker(w["id"], w["slots"], w["tokens"], healthy=False) for w in settings.workers}
        self._sizes = {worker.id: (worker.slots, worker.tokens) for worker in self.shown.values()}
        self._ttl_ms = round(ttl * 1000)

    def __contains__(self, worker: str) -> bool:
        return worker in self.shown

    def healthy(self, besides: frozenset[str]) -> bool:
        return any(worker.healthy and worker.id not in besides for worker in self.shown.values())

    def set_health(self, worker: str, healthy: bool) -> bool:
        """Whether that is news."""
        news = self.shown[worker].healthy is not healthy
        self.shown[worker].healthy = healthy
        return news

    def set_size(self, worker: str, slots: int, tokens: int) -> None:
        self._sizes[worker] = (slots, tokens)
        self.shown[worker].slots, self.shown[worker].tokens = slots, tokens

    def seen(self, view: View) -> None:
        """The store's view of them."""
        for worker in self.shown.values():
            if (seen := view.worker(worker.id)) is not None:
                worker.slots, worker.running, worker.reserved = seen["slots"], seen["running"], seen["reserved"]

    def whole(self) -> list[Worker]:
        """With nothing reserved, whatever others run there."""
        return [Worker(id, *size, healthy=self.shown[id].healthy) for id, size in self._sizes.items()]

    def health_of(self, worker: str) -> Op:
        return ["worker", worker, {"healthy": self.shown[worker].healthy, "ttl_ms": self._ttl_ms}]

    def size_of(self, worker: str) -> Op:
        slots, tokens = self._sizes[worker]
        return ["worker", worker, {"slots": slots, "tokens": tokens}]

    def reports(self) -> Iterator[Op]:
        """All that is known."""
        yield from map(self.size_of, self._sizes)
        yield from map(self.health_of, self._sizes)
