"""A naive model of the law, written from DESIGN's sentences and from nothing in `fairness/scheduler.py`.

It scans every tenant at every step, forgets nobody, and keeps the whole history of dispatches. The scheduler must
agree with it on every decision and every counter, to the last unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fairness import CostFunction

MILLI = 1000


@dataclass
class Job:
    """What the model knows of one ticket."""

    name: str
    tenant: str
    order: int
    n_in: int
    cached: int = 0
    produced: int = 0
    predicted: int = 0
    paid: int = 0
    waiting: bool = True
    weights: list[tuple[float, float]] = field(default_factory=list)  # (service when it came into force, weight)


class Reference:
    def __init__(self, cost: CostFunction, weights: Mapping[str, float]) -> None:
        self.cost = cost
        self.weights = dict(weights)
        self.counters: dict[str, int] = {}
        self.jobs: dict[str, Job] = {}
        self.dispatched: list[Job] = []  # in order of dispatch; a requeued dispatch never happened
        self.lift_target = 0
        self._submitted = 0

    # -- the rules ---------------------------------------------------------------------------------------------

    def submit(self, name: str, tenant: str, n_in: int) -> None:
        self.counters.setdefault(tenant, 0)
        if not self.queue(tenant):
            self._lift(tenant)
        self.jobs[name] = Job(name, tenant, self._submitted, n_in)
        self._submitted += 1

    def next(self) -> str | None:
        """The ticket whose turn it is: the smallest counter, ties by the oldest head."""
        heads = [self.queue(tenant)[0] for tenant in self.counters if self.queue(tenant)]
        if not heads:
            return None
        return min(heads, key=lambda job: (self.counters[job.tenant], job.order)).name

    def dispatch(self, name: str, predicted: int) -> None:
        job = self.jobs[name]
        job.waiting = False
        job.predicted = predicted
        job.weights = [(0.0, self.weight(job.tenant))]
        self.dispatched.append(job)
        self._pay(job)

    def charge(self, name: str, produced: int) -> None:
        job = self.jobs[name]
        job.produced = max(job.produced, produced)
        self._pay(job)

    def correct(self, name: str, n_in: int, cached: int) -> None:
        job = self.jobs[name]
        job.n_in, job.cached = n_in, min(cached, n_in)
        self._pay(job)

    def end(self, name: str) -> None:
        """Finished, or cancelled while it ran: what was predicted and not produced is refunded."""
        job = self.jobs.pop(name)
        job.predicted = 0
        self._pay(job)

    def leave(self, name: str) -> None:
        """Cancelled while it waited."""
        del self.jobs[name]

    def requeue(self, name: str) -> None:
        job = self.jobs[name]
        self.counters[job.tenant] -= job.paid
        job.paid = job.produced = job.predicted = job.cached = 0
        job.waiting = True
        self.dispatched.remove(job)

    def set_weight(self, tenant: str, weight: float) -> None:
        self.weights[tenant] = weight
        for job in self.jobs.values():
            if job.tenant == tenant and not job.waiting:
                job.weights.append((self._service(job), weight))

    # -- what they stand on ------------------------------------------------------------------------------------

    def weight(self, tenant: str) -> float:
        return self.weights.get(tenant, 1.0)

    def queue(self, tenant: str) -> list[Job]:
        return sorted((j for j in self.jobs.values() if j.waiting and j.tenant == tenant), key=lambda j: j.order)

    def _lift(self, tenant: str) -> None:
        waiting = [self.counters[other] for other in self.counters if self.queue(other)]
        if waiting:
            self.lift_target = max(self.lift_target, min(waiting))
        elif self.dispatched:
            self.lift_target = max(self.lift_target, self.counters[self.dispatched[-1].tenant])
        self.counters[tenant] = max(self.counters[tenant], self.lift_target)

    def _service(self, job: Job) -> float:
        return self.cost.service(job.n_in, max(job.predicted, job.produced), job.cached)

    def _pay(self, job: Job) -> None:
        due = price(self._service(job), job.weights)
        self.counters[job.tenant] += due - job.paid
        job.paid = due


def price(service: float, weights: list[tuple[float, float]]) -> int:
    """Service over weight in thousandths, rounded once: each part at the weight in force when it was received."""
    if len(weights) == 1:
        return int(service * MILLI / weights[0][1] + 0.5)
    ends = [start for start, _ in weights[1:]] + [float("inf")]
    parts = [max(0.0, min(service, end) - start) / weight for (start, weight), end in zip(weights, ends, strict=True)]
    total = 0.0
    for part in parts:
        total += part
    return int(total * MILLI + 0.5)
