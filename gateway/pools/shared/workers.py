"""The workers of a shared pool as one replica sees them, and how it tells the store."""

from __future__ import annotations

from collections.abc import Iterator

from fairness import Worker
from gateway.pools.settings import Settings
from gateway.pools.shared.protocol import WorkerReport
from gateway.pools.shared.view import View


class Workers:
    """Health is what this replica's own probes say, and not healthy before the first. `shown` are for metrics: slots
    in use and room as the store has them. `ttl` seconds is a good probe believed by the others.

    The others hear only of what was found here: a probe's result, a size that an engine told. Sizes of the file, and
    those assumed without one, are in the settings, where the highest revision counts."""

    def __init__(self, settings: Settings, ttl: float) -> None:
        self.shown = {w.id: Worker(*w, healthy=False) for w in settings.workers}
        self._sizes = {worker.id: (worker.slots, worker.tokens) for worker in self.shown.values()}
        self._found: dict[str, dict[str, int]] = {id: {} for id in self.shown}
        self._probed: set[str] = set()
        self._ttl_ms = round(ttl * 1000)

    def __contains__(self, worker: str) -> bool:
        return worker in self.shown

    def healthy(self, besides: frozenset[str]) -> bool:
        return any(worker.healthy and worker.id not in besides for worker in self.shown.values())

    def set_health(self, worker: str, healthy: bool) -> bool:
        """Whether that is news."""
        news = worker not in self._probed or self.shown[worker].healthy is not healthy
        self._probed.add(worker)
        self.shown[worker].healthy = healthy
        return news

    def set_size(self, worker: str, slots: int, tokens: int) -> None:
        """What differs from the settings was told by the engine."""
        found = self._found[worker]
        size = {"slots": slots, "tokens": tokens}
        named = dict(zip(size, self._sizes[worker], strict=True))
        found |= {what: number for what, number in size.items() if what in found or number != named[what]}
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

    def health_of(self, worker: str) -> WorkerReport:
        return WorkerReport.of_health(worker, self.shown[worker].healthy, self._ttl_ms)

    def sizes_of(self, worker: str) -> Iterator[WorkerReport]:
        if found := self._found[worker]:
            yield WorkerReport(worker, dict(found))

    def reports(self) -> Iterator[WorkerReport]:
        """All that was found here."""
        for worker in self.shown:
            yield from self.sizes_of(worker)
        yield from (self.health_of(worker) for worker in self.shown if worker in self._probed)
