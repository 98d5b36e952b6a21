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
    waiting: bool = True
    paid: dict[str, int] = field(default_factory=dict)  # by level
    weights: dict[str, float] = field(default_factory=dict)  # by level, when it was dispatched
    turns: dict[str, int] = field(default_factory=dict)  # what the groups' turns were before its dispatch


class Reference:
    """Plain VTC, unless `lifts` is false (LCF), or counters are told apart by whole quanta only (DRR; FCFS, where
    they are not told apart at all)."""

    def __init__(
        self, cost: CostFunction, weights: Mapping[str, float], lifts: bool = True, quantum: float = 1
    ) -> None:
        self.cost = cost
        self.lifts = lifts
        self.quantum = quantum
        self.weights = dict(weights)
        self.counters: dict[str, int] = {}  # of tenants and of groups; a group's path ends in a slash
        self.jobs: dict[str, Job] = {}
        self.dispatched: list[Job] = []  # in order of dispatch; a requeued dispatch never happened
        self.lift_targets: dict[str, int] = {}  # by group
        self.turns: dict[str, int] = {}  # when a group last took a turn, or began to wait
        self._clock = 0

    # -- the rules ---------------------------------------------------------------------------------------------

    def submit(self, name: str, tenant: str, n_in: int) -> None:
        order = self._tick()
        for path in reversed(levels(tenant)):
            self.counters.setdefault(path, 0)
            if not self.queue(path):
                if path != tenant:
                    self.turns[path] = self._tick()
                self._lift(path)
        self.jobs[name] = Job(name, tenant, order, n_in)

    def next(self) -> str | None:
        """The ticket whose turn it is: descend by the smallest counter, ties by the oldest head, and between groups
        by who has waited longest for a turn."""
        group = ""
        while True:
            waiting = [path for path in self._members(group) if self.queue(path)]
            if not waiting:
                return None
            best = min(waiting, key=self._key)
            if not best.endswith("/"):
                return self.queue(best)[0].name
            group = best

    def dispatch(self, name: str, predicted: int) -> None:
        job = self.jobs[name]
        job.waiting = False
        job.predicted = predicted
        for path in reversed(levels(job.tenant)):
            job.weights[path] = self.weight(path)
            job.paid[path] = 0
            if path != job.tenant:
                job.turns[path] = self.turns[path]
                self.turns[path] = self._tick()
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
        for path, turn in job.turns.items():
            self.turns[path] = min(self.turns[path], turn) if self.queue(path) else turn
        for path, paid in job.paid.items():
            self.counters[path] -= paid
        job.produced = job.predicted = job.cached = 0
        job.waiting = True
        job.turns.clear()
        self.dispatched.remove(job)

    def set_weight(self, path: str, weight: float) -> None:
        self.weights[path] = weight

    def move(self) -> None:
        """All goes over into a fresh scheduler: what runs in the order of dispatch, then what waits, the oldest first.
        It knows nothing of what is over but the counters: who has the most counts as who left last."""
        running = [job for job in self.dispatched if self.jobs.get(job.name) is job]
        waiting = self.queue("")
        self.dispatched = [self._leader(group) for group in self._groups()] + running
        for job in running:
            job.order = self._tick()
            for path in reversed(levels(job.tenant)[:-1]):
                self.turns[path] = job.turns[path] = self._tick()
        begun = set[str]()
        for job in waiting:
            job.order = self._tick()
            for path in reversed(levels(job.tenant)):
                self.counters[path] = max(self.counters[path], self.lift_targets.get(parent(path), 0))
                if path != job.tenant and path not in begun:
                    self.turns[path] = self._tick()
                begun.add(path)

    def net(self, path: str) -> int:
        """A counter without what the tickets that run are charged."""
        return self.counters[path] - sum(job.paid.get(path, 0) for job in self.jobs.values() if not job.waiting)

    # -- what they stand on ------------------------------------------------------------------------------------

    def weight(self, path: str) -> float:
        return self.weights.get(path.removesuffix("/"), 1.0)

    def queue(self, path: str) -> list[Job]:
        """What waits in a tenant, or below a group, the oldest first."""
        waiting = (job for job in self.jobs.values() if job.waiting and below(job.tenant, path))
        return sorted(waiting, key=lambda job: job.order)

    def _members(self, group: str) -> list[str]:
        return [path for path in self.counters if parent(path) == group]

    def _groups(self) -> list[str]:
        """Those that have members, the deepest first."""
        return sorted({parent(path) for path in self.counters}, key=lambda group: -group.count("/"))

    def _leader(self, path: str) -> Job:
        """A ticket of the member that has received the most, and of its member, down to a tenant."""
        while not path or path.endswith("/"):
            path = max(self._members(path), key=self.net)
        return Job("", path, 0, 0, waiting=False)

    def _key(self, path: str) -> tuple[float, int]:
        return self.counters[path] // self.quantum, self._precedence(path)

    def _precedence(self, path: str) -> int:
        return self.turns[path] if path.endswith("/") else self.queue(path)[0].order

    def _lift(self, path: str) -> None:
        if not self.lifts:
            return
        group = parent(path)
        waiting = [other for other in self._members(group) if self.queue(other)]
        left = [job for job in self.dispatched if below(job.tenant, group)]
        target = self.lift_targets.get(group, 0)
        if waiting:
            target = max(target, self.counters[min(waiting, key=self._key)])  # whose turn it is: plain VTC, the least
        elif left:
            (member,) = (level for level in levels(left[-1].tenant) if parent(level) == group)
            target = max(target, self.counters[member])
        self.lift_targets[group] = target
        self.counters[path] = max(self.counters[path], target)

    def _service(self, job: Job) -> float:
        return self.cost.service(job.n_in, max(job.predicted, job.produced), job.cached)

    def _pay(self, job: Job) -> None:
        for path in levels(job.tenant):
            due = price(self._service(job), job.weights[path])
            self.counters[path] += due - job.paid[path]
            job.paid[path] = due

    def _tick(self) -> int:
        self._clock += 1
        return self._clock


def levels(tenant: str) -> list[str]:
    """The groups above a tenant, the topmost first, and the tenant."""
    return [tenant[: i + 1] for i, letter in enumerate(tenant) if letter == "/"] + [tenant]


def parent(path: str) -> str:
    return path.removesuffix("/").rpartition("/")[0] + "/" if "/" in path.removesuffix("/") else ""


def below(tenant: str, path: str) -> bool:
    return tenant == path or not path or (path.endswith("/") and tenant.startswith(path))


def price(service: float, weight: float) -> int:
    """Service over weight in thousandths, rounded once."""
    return int(service * MILLI / weight + 0.5)
